"""Records to tables and pictures: one self-contained HTML file, readable without a network.

Data flows one way: `responses` and `findings` turn records into numbers (tested), `figures` draws them in the look
of `theme`, `page` adds the words.  The only part of gcsearch that imports plotly and Optuna's pictures.
"""

from gcsearch.results.report.findings import confirmed_rows
from gcsearch.results.report.page import build_report

__all__ = ["build_report", "confirmed_rows"]
