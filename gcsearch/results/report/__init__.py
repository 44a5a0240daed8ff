"""Records to tables and pictures: one self-contained HTML file, readable without a network.

Data flows one way: `responses` and `findings` turn records into numbers (tested), `figures` draws them in the look
of `theme`, `sections` adds the words, `pages` hold them.  The only part of gcsearch that imports plotly; `findings`,
whose sentences the terminal prints too, does without.
"""
