"""Sections, their words, and the page that holds them: one HTML file, readable without a network."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from typing import NamedTuple

from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from gcsearch import files
from gcsearch.config.metrics import Metric, columns, find
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import TrialRecord
from gcsearch.methods.registry import title_and_tags, with_tags
from gcsearch.results.ranking import RankedTrial, ranking
from gcsearch.results.report.figures import (
    draw_confirmation,
    draw_contour,
    draw_cosine,
    draw_curves,
    draw_history,
    draw_importances,
    draw_scatter,
    draw_shares,
    draw_slice,
)
from gcsearch.results.report.findings import (
    ConfirmedRow,
    Rechecked,
    branches,
    choice,
    compared,
    curve,
    deciding,
    has_both_sides,
    headline,
    history,
    render_table,
    scatter_points,
)
from gcsearch.results.report.responses import (
    LEAST_SURFACE,
    REACH,
    Responses,
    contour_pairs,
    importances,
    responses,
    searched,
    surface,
)
from gcsearch.results.report.theme import DARK
from gcsearch.results.report.wording import (
    counted,
    describe,
    hover,
    joined,
    named,
    outcome_counts,
    typeset,
    value_text,
)
from gcsearch.stats import number, plus_minus, spread

Warn = Callable[[str], None]
"""Told in a line of what the page lacks."""

_MOST_AT_EASE = 7  # columns of numbers that stand beside one another with their deviations in one line
_LEAST_PICTURED, _LEAST_IMPORTANCE = 2, 10  # completed settings that a picture needs

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"
)


class Picture(NamedTuple):
    """A picture by its name, drawn when the page is put together."""

    name: str
    draw: Callable[[], Figure]


class Section(NamedTuple):
    """A heading, words, and pictures or a table; without either, the words say why there are none."""

    title: str
    lead: str
    pictures: Sequence[Picture] = ()
    body: str = ""

    @property
    def shows(self) -> bool:
        """Whether there is more than words."""
        return bool(self.pictures or self.body)


def build_report(
    pipeline: Pipeline,
    records: Sequence[TrialRecord],
    finals: Sequence[TrialRecord],
    champion: int | None,
    provenance: Mapping[str, object] | None = None,
    *,
    rechecked: Sequence[TrialRecord] = (),
    link: str = "",
    warn: Warn = lambda _: None,
) -> str:
    """One HTML file with everything in it, plotly.js included once; nothing is loaded from elsewhere.

    What cannot be drawn is named to `warn` and in the page, and costs nothing else.

    Args:
        records: of the search. finals: of the confirmation, labelled; the champion's role is champion.
        champion: its trial number; None where no trial completed.
        provenance: versions, git commit, and what else the numbers depend on.
        rechecked: the shortlist as measured again, which the champion was chosen by.
        link: where the runs can be browsed: an address, or words.
    """
    objective = find(pipeline.search.ranking_metric)
    records = sorted(records, key=lambda record: record.number)
    ranked = ranking(pipeline, records)
    tried = cache(lambda: responses(records, objective.key))
    parts: dict[str, Callable[[], Section]] = {
        "results": lambda: _results_section(pipeline, finals),
        "choice": lambda: _choice_section(pipeline, records, rechecked, champion, over=bool(finals)),
        "base against new": lambda: _scatter_section(records, finals, champion),
        "course of the search": lambda: _history_section(records, champion, objective),
        "slices": lambda: _slices_section(tried(), champion, objective),
        "maps of two": lambda: _contours_section(tried(), champion, objective),
        "importances": lambda: _importance_section(tried()),
        "learning curves": lambda: _curves_section(ranked, champion, objective),
        "gradient rule": lambda: _branches_section(records, champion),
        "all trials": lambda: _trials_section(pipeline, ranked, champion, objective),
    }
    sections = [_built(name, build, warn) for name, build in parts.items()]
    sentences = headline(pipeline, records, finals, champion)
    foot = _footer(pipeline, records, finals, provenance or {}, link)
    return _page(pipeline, records, sentences, sections, foot, warn)


def _built(name: str, build: Callable[[], Section], warn: Warn) -> Section:
    """The section, or in its place the reason why there is none."""
    try:
        return build()
    except (MemoryError, OSError):
        raise
    except Exception as error:  # whatever one part dies of, the others are shown
        return Section(name.capitalize(), _lacking(f"section {name}", error, warn))


def _lacking(what: str, error: Exception, warn: Warn) -> str:
    """In words that the page lacks `what`; `warn` hears of it too."""
    first = next(iter(str(error).splitlines()), "")
    why = f"{type(error).__name__}{': ' if first else ''}{first}"
    warn(f"the report lacks the {what}: {why}")
    return f"The {what} could not be drawn: {why}"


def _results_section(pipeline: Pipeline, finals: Sequence[TrialRecord]) -> Section:
    if not finals:
        return Section("Results on test images", "The champion has not been confirmed yet, so there are none.")
    task = pipeline.task
    shown, dense = columns(task), len(columns(task)) > _MOST_AT_EASE
    rows = [_result_row(row, dense=dense) for row in render_table(finals, task)]
    ahead = f"champion ahead by, in {find(deciding(finals, task)).title}"
    titles = "".join(f"<th class=n>{html.escape(column.title)}" for column in shown)
    head = f"<tr><th>setting{titles}<th class=n>{ahead}</tr>"
    seeds = sorted({seed for record in finals for seed in record.seeds})
    known = set(seeds) & set(task.seeds)
    lead = (
        f"Accuracy in per cent, mean ± standard deviation over {counted(len(seeds), 'seed')} "
        f"({', '.join(map(str, seeds))}), {'some of which the search used too' if known else 'new to the search'}. "
        f"Whatever is trained was trained on all {'' if task.classes == 'all' else 'base '}classes"
        f"{' of the source' if task.targets else ''}. "
        "The last column pairs the runs by seed and gives the 95 % interval of the mean difference."
    )
    kind = "'results dense'" if dense else "results"
    body = f"<div class=scroll><table class={kind}><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
    return Section("Results on test images", lead, body=body)


def _choice_section(
    pipeline: Pipeline,
    records: Sequence[TrialRecord],
    rechecked: Sequence[TrialRecord],
    champion: int | None,
    *,
    over: bool,
) -> Section:
    title, search = "How the champion was chosen", pipeline.search
    if not over:
        first = "" if champion is None else f" So far it is the first of the search by {search.chosen_by}."
        return Section(title, f"The confirmation is still to come.{first}")
    if not rechecked:
        return Section(title, f"It is the first of the search by {search.chosen_by}; nothing was measured again.")
    seeds = counted(len(rechecked[0].seeds), "seed")
    by = f" by {search.criterion}" if len(search.objectives) > 1 else ""
    lead = (
        f"The best {len(rechecked)} of the search{by} were trained again in the same way with {seeds} that no choice "
        "had looked at: the best of many noisy means is on average too high, which the second column shows and the "
        "third does not. Of those within one standard error of the best (of the difference, paired by seed) the one of "
        "fewest epochs, then of smallest rho, is the champion."
    )
    titles = ("setting", f"{search.ranking_metric} in the search", "with new seeds", "behind the best")
    head = "".join(f"<th{' class=n' if index else ''}>{title}" for index, title in enumerate(titles))
    names = searched(records)
    rows = "".join(_choice_row(row, names, champion) for row in choice(records, rechecked, search.ranking_metric))
    table = f"<table class=results><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return Section(title, lead, body=f"<div class=scroll>{table}</div>")


def _choice_row(row: Rechecked, names: Sequence[str], champion: int | None) -> str:
    chosen = row.record.number == champion
    text = html.escape(f"trial {row.record.number}, {describe(row.record.config, names)}")
    behind = ""
    if row.behind is not None:
        behind = f"{_signed(-row.behind.mean)} <small>± {typeset(number(row.behind.error))}</small>"
    both = (typeset(plus_minus(row.before)), typeset(plus_minus(row.again)))
    cells = "".join(f"<td class=n>{cell}" for cell in (*both, behind))
    return f"<tr{' class=champion' if chosen else ''}><td>{f'<b>★ {text}</b>' if chosen else text}{cells}</tr>"


def _result_row(row: ConfirmedRow, *, dense: bool) -> str:
    texts = [typeset(plus_minus(value)) for value in row.values.values()]
    # Where columns are many, a deviation goes below its mean, and never without its sign.
    texts = [text.replace("± ", "±&nbsp;") for text in texts] if dense else texts
    cells = "".join(f"<td class=n>{text}" for text in texts)
    if row.lead is None:
        lead = ""
    elif row.lead.n == 1:
        lead = f"{_signed(row.lead.mean)} <small>one seed</small>"
    else:
        lead = f"{_signed(row.lead.mean)} <small>[{_signed(row.lead.low)}, {_signed(row.lead.high)}]</small>"
    name = f"<b>★ {html.escape(row.name)}</b>" if row.champion else html.escape(row.name)
    return f"<tr{' class=champion' if row.champion else ''}><td>{name}{cells}<td class=n>{lead}</tr>"


def _signed(value: float) -> str:
    return typeset(number(value, signed=True))


def _scatter_section(records: Sequence[TrialRecord], finals: Sequence[TrialRecord], champion: int | None) -> Section:
    title, measured = "Base against new", scatter_points(records)
    points = measured if len(measured) >= _LEAST_PICTURED else []
    pictures = (
        [Picture("scatter of the search", partial(draw_scatter, points, champion, records[0].stage))] if points else []
    )
    one_sided = [record for record in finals if not has_both_sides(record)]
    if len(one_sided) < len(finals):
        pictures.append(Picture("scatter of the confirmation", partial(draw_confirmation, finals)))
    if not pictures:
        return Section(title, "Only one setting to show." if measured else "No setting has accuracies on both sides.")
    parts = []
    if points and records[0].stage == "search":
        parts.append(
            "The search: each point is one setting, by validation images; the held-out part of the base classes plays "
            "“new”, and no test image or new class is involved."
        )
    elif points:
        parts.append("The search, an oracle: each point is one setting, by test images of base and new classes.")
    if len(pictures) > (1 if points else 0):
        parts.append(
            "The confirmation: test images; small dots are seeds, large marks their means (names on hovering)."
        )
        if one_sided:
            parts.append(f"Without accuracies on both sides, so not in it: {joined([named(r) for r in one_sided])}.")
    parts.append("Grey curves join points of equal H.")
    if len(pictures) > 1:
        parts.append("The two are not on one scale.")
    return Section(title, " ".join(parts), pictures)


def _history_section(records: Sequence[TrialRecord], champion: int | None, objective: Metric) -> Section:
    title = "Course of the search"
    if not any(math.isfinite(record.mean(objective.key)) for record in records):
        return Section(title, f"No trial has come to a number ({outcome_counts(records)}).")
    names = searched(records)
    if len(records) < _LEAST_PICTURED:
        return Section(title, f"Only one setting was tried: {describe(records[0].config, names)}.")
    texts = [hover(record, names) for record in records]
    draw = partial(draw_history, history(records, objective.key), texts, champion, objective)
    lead = f"Shown is {objective.legend}. Bars are standard deviations over seeds: read differences against them."
    return Section(title, lead, [Picture("course of the search", draw)])


def _slices_section(tried: Responses, champion: int | None, objective: Metric) -> Section:
    title = "One hyper-parameter at a time"
    if len(tried.records) < _LEAST_PICTURED or not tried.axes:
        return Section(title, f"Fewer than {_LEAST_PICTURED} different settings have completed.")
    pictures = [
        Picture(f"slice of {name}", partial(draw_slice, tried, name, champion, objective)) for name in tried.axes
    ]
    lead = f"Every completed setting, {objective.legend}. The other hyper-parameters vary too, hence the scatter."
    special = [f"{n}: “{text}” stands apart" for n, one in tried.axes.items() for text in one.special.values()]
    return Section(title, f"{lead} {'; '.join(special)}{'.' if special else ''}", pictures)


def _contours_section(tried: Responses, champion: int | None, objective: Metric) -> Section:
    title = "Two at a time"
    pairs = contour_pairs(tried)
    if not pairs:
        return Section(title, "Fewer than two numeric hyper-parameters were searched.")
    if len(tried.records) < _LEAST_PICTURED:
        return Section(title, f"Fewer than {_LEAST_PICTURED} different settings have completed.")
    grounds = [surface(tried, pair) for pair in pairs]
    pictures = [
        Picture(f"map of {' and '.join(pair)}", partial(draw_contour, tried, pair, ground, champion, objective))
        for pair, ground in zip(pairs, grounds, strict=True)
    ]
    lead = f"Each dot is a setting, its colour {objective.legend}; the lowest tenth shares one colour. "
    if any(grounds):
        lead += (
            "The surface averages the settings near by and is blank where none lies within "
            f"{REACH:.3g} of the axes' length. “off”, and 0 on a logarithmic axis, stand apart from it. "
        )
    if not all(grounds):
        lead += f"Fewer than {LEAST_SURFACE} settings with numbers on both axes get no surface."
    return Section(title, lead, pictures)


def _importance_section(tried: Responses) -> Section:
    title = "Which hyper-parameters mattered"
    if len(tried.records) < _LEAST_IMPORTANCE:
        return Section(title, f"Fewer than {_LEAST_IMPORTANCE} settings have completed, too few to tell.")
    shares = importances(tried)
    if not shares:
        return Section(title, "All settings came to the same number.")
    lead = "PED-ANOVA: how far the best tenth of settings differs from all settings, per hyper-parameter."
    if "rho" in tried.axes and {"beta1", "beta2"} & set(tried.axes):
        lead += (
            " Read it with care: as rho goes to 0 both gradients become the same, and then the bounds beta1 and "
            "beta2 mean nothing, so settings of small rho make the bounds look less important than they are."
        )
    return Section(title, lead, [Picture("importances", partial(draw_importances, shares))])


def _curves_section(ranked: Sequence[RankedTrial], champion: int | None, objective: Metric) -> Section:
    title = "Learning curves"
    chosen = compared(ranked, champion, objective.key) if champion is not None else []
    if not chosen or chosen[0][1].number != champion:
        return Section(title, "The champion has fewer than two measured epochs, or there is no champion.")
    curves = [(name, curve(record, objective.key)) for name, record in chosen]
    names = searched([row.record for row in ranked])
    listed = "".join(
        f"<li><b>{html.escape(name)}</b> {html.escape(describe(record.config, names))}" for name, record in chosen
    )
    lead = f"Shown is {objective.legend}; the band spans the champion's lowest and highest seed."
    return Section(
        title,
        lead,
        [Picture("learning curves", partial(draw_curves, curves, objective))],
        f"<ul class=key>{listed}</ul>",
    )


def _branches_section(records: Sequence[TrialRecord], champion: int | None) -> Section:
    title = "Inside the champion's gradient rule"
    record = next((record for record in records if record.number == champion), None)
    if record is None:
        return Section(title, "There is no champion.")
    chosen = branches(record)
    if chosen is None:
        name = describe(record.config, ())
        return Section(title, f"{name} does not choose between gradients, or has a single measured epoch.")
    lead = (
        "Left: which gradient the steps of each epoch took. Right: the cosine between the plain and the perturbed "
        "gradient, which decides: at or below beta1 the plain one, at or above beta2 the perturbed one, between "
        "them the projection. Means over seeds; the band spans lowest and highest seed."
    )
    pictures = [Picture("branches", partial(draw_shares, chosen)), Picture("cosine", partial(draw_cosine, chosen))]
    return Section(title, lead, pictures)


def _trials_section(
    pipeline: Pipeline, ranked: Sequence[RankedTrial], champion: int | None, objective: Metric
) -> Section:
    title, records = "All trials", [row.record for row in ranked]
    if not records:
        return Section(title, "No trial has ended yet.")
    search, names = pipeline.search, searched(records)
    seeds = max((record.seeds for record in records), key=len)
    several = [find(name) for name in search.objectives if name != objective.key]
    further = [one.key for one in several] + (["worst regret"] if pipeline.task.also else [])
    titles = ["rank", "trial", *names, objective.key, *further, *(f"seed {seed}" for seed in seeds), "epochs run"]
    head = "".join(f"<th class=n tabindex=0>{html.escape(title)}" for title in titles)
    head = f"<tr>{head}<th tabindex=0>outcome</tr>"
    rows = "".join(_trial_row(row, names, several, seeds, champion, joint=bool(pipeline.task.also)) for row in ranked)
    lead = f"Click a heading to sort. Mean ± standard deviation over seeds, {objective.unit.words}."
    lead += " A star behind the rank: on the front." if several else ""
    same = _shared(records, names)
    lead += f" The same in all: {same}." if same else ""
    table = f"<table class=sortable><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return Section(title, lead, body=f"<div class='scroll tall'>{table}</div>")


def _trial_row(
    row: RankedTrial,
    names: Sequence[str],
    several: Sequence[Metric],
    seeds: Sequence[int],
    champion: int | None,
    *,
    joint: bool,
) -> str:
    record = row.record
    per_seed = dict(zip(record.seeds, record.metrics.get(row.objective, ()), strict=False))
    place = "" if row.rank is None else f"{row.rank}{' *' if row.front else ''}"
    cells = [_cell(row.rank, place), _cell(record.number, str(record.number))]
    for name in names:
        value = record.config.values.get(name)
        cells.append(_cell(value, "" if value is None else value_text(value)))
    means = [row.values, *(spread(record.metrics.get(one.key, ())) for one in several)]
    cells += [_cell(value.mean, plus_minus(value)) for value in means]
    if joint:
        cells.append(_cell(row.worst_regret, "" if row.worst_regret is None else number(row.worst_regret)))
    cells += [_cell(per_seed.get(seed), number(per_seed[seed]) if seed in per_seed else "") for seed in seeds]
    cells.append(_cell(record.epochs, str(record.epochs)))
    told = html.escape(" · ".join(filter(None, [record.outcome.value, record.label])))
    mark = " class=champion" if record.number == champion else ""
    return f"<tr{mark}>{''.join(cells)}<td>{told}{_reason(record)}</tr>"


def _reason(record: TrialRecord) -> str:
    """The first line of the reason, the whole of it on hovering."""
    if not record.reason:
        return ""
    first = record.reason.splitlines()[0]
    shown = first if len(first) <= 80 else first[:79] + "…"
    return f" <small title='{html.escape(record.reason, quote=True)}'>{html.escape(shown)}</small>"


def _cell(value: object, text: str) -> str:
    """A number cell; `data-v` is what sorting compares, and is left out where there is no value."""
    known = value is not None and not (isinstance(value, float) and math.isnan(value))
    key = f" data-v='{html.escape(str(value), quote=True)}'" if known else ""
    return f"<td class=n{key}>{typeset(text)}"


def _shared(records: Sequence[TrialRecord], varied: Sequence[str]) -> str:
    first = records[0].config
    titles, tags = (set(each) for each in zip(*(title_and_tags(record.config) for record in records), strict=True))
    method = [with_tags(titles.pop(), tags.pop() if len(tags) == 1 else ())] if len(titles) == 1 else []
    common = set.intersection(*(set(record.config.hyperparameters) for record in records)) - set(varied)
    fixed = [f"{name} {value_text(value)}" for name, value in first.hyperparameters.items() if name in common]
    return ", ".join(method + fixed)


def _footer(
    pipeline: Pipeline,
    records: Sequence[TrialRecord],
    finals: Sequence[TrialRecord],
    provenance: Mapping[str, object],
    link: str,
) -> str:
    confirmed = sorted({seed for record in finals for seed in record.seeds})
    facts = {
        "search seeds": ", ".join(map(str, pipeline.task.seeds)),
        "confirmation seeds": ", ".join(map(str, confirmed)) or "none yet",
        "chosen by": pipeline.search.chosen_by,
        "runs": link,
        **{str(key): str(value) for key, value in provenance.items()},
    }
    items = "".join(f"<dt>{html.escape(k)}<dd>{_linked(v)}" for k, v in facts.items() if v)
    toml = html.escape(files.to_toml(pipeline.to_dict()))
    return (
        f"<h2>Where this comes from</h2><dl>{items}</dl>"
        f"<details><summary>The pipeline</summary><pre>{toml}</pre></details>"
    )


def _linked(text: str) -> str:
    safe = html.escape(text, quote=True)
    return f"<a href='{safe}'>{safe}</a>" if text.startswith(("http://", "https://")) else safe


def _page(
    pipeline: Pipeline,
    records: Sequence[TrialRecord],
    sentences: Sequence[str],
    sections: Sequence[Section],
    foot: str,
    warn: Warn,
) -> str:
    figures: list[str] = []
    blocks = [block(section, figures, warn) for section in sections if section.shows]
    blocks.append(_left_out([section for section in sections if not section.shows]))
    first, *rest = map(typeset, sentences)
    task = pipeline.task
    about = (
        f"{task.title} · {task.backbone} · {task.shots} shots per class · {counted(len(records), 'setting')} × "
        f"{counted(len(task.seeds), 'seed')} ({outcome_counts(records)}) · chosen by {pipeline.search.chosen_by}"
    )
    lead = f"<section class='headline'><p>{first}</p>{''.join(f'<p>{one}</p>' for one in rest)}</section>"
    return document("gcsearch report", pipeline.name, about, [lead, *blocks], figures, foot)


def document(kind: str, name: str, about: str, blocks: Sequence[str], figures: Sequence[str], foot: str) -> str:
    """The whole page: `blocks` are HTML, with a place of id `figure-0`, ... for each of `figures`, which are JSON."""
    drawn = ",".join(figures).replace("</", "<\\/")
    name = html.escape(name)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{name}: {kind}</title>
<style>
{_own("page.css")}</style>
</head>
<body>
<header><p class="eyebrow">{kind}</p><h1>{name}</h1><p class="about">{html.escape(about)}</p></header>
<main>
{blocks[0]}
<noscript><p>The pictures need JavaScript; the tables and sentences do not.</p></noscript>
{"".join(blocks[1:])}
</main>
<footer>{foot}</footer>
<script>{get_plotlyjs() if figures else ""}</script>
<script>const figures=[{drawn}],dark={json.dumps(DARK)};
{_own("page.js")}</script>
</body>
</html>
"""


def block(section: Section, figures: list[str], warn: Warn = lambda _: None) -> str:
    """A section as HTML; its pictures are added to `figures` as JSON. `warn` hears of those that cannot be drawn."""
    places = ""
    for picture in section.pictures:
        try:
            figure = picture.draw()
            drawn = str(figure.to_json())
        except (MemoryError, OSError):
            raise
        except Exception as error:  # a picture is no reason to lose the page
            places += f"<p class=lacking>{html.escape(_lacking(f'picture {picture.name}', error, warn))}</p>"
            continue
        places += f"<div class=figure id=figure-{len(figures)} style='min-height:{figure.layout.height}px'></div>"
        figures.append(drawn)
    shape = {0: "", 1: "one", 2: "two"}.get(len(section.pictures), "three")
    grid = f"<div class='grid {shape}'>{places}</div>" if places else ""
    words = f"<h2>{html.escape(section.title)}</h2><p>{html.escape(section.lead)}</p>"
    return f"<section>{words}{section.body}{grid}</section>"


def _left_out(sections: Sequence[Section]) -> str:
    """One list of what could not be drawn, each with the reason."""
    lines = "".join(f"<li><b>{html.escape(one.title)}</b> {html.escape(one.lead)}" for one in sections)
    return f"<section><h2>Left out</h2><ul class='key wide'>{lines}</ul></section>" if lines else ""


def _own(name: str) -> str:
    """The text of a file that lies beside this module."""
    return resources.files("gcsearch.results.report").joinpath(name).read_text(encoding="utf-8")
