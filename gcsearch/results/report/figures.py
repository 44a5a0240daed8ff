"""Numbers to pictures, a function for each."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, quantiles
from typing import Any

import plotly.graph_objects as go

from gcsearch.config.metrics import PERCENT, SIDES, Metric, Stage, find
from gcsearch.config.trials import Outcome, Role, TrialRecord
from gcsearch.results.report.findings import Branches, Curve, History, ScatterPoint, has_both_sides, iso_h
from gcsearch.results.report.responses import Axis, Responses, Surface, axis, decades, round_steps
from gcsearch.results.report.theme import (
    ACCENT,
    AMBER,
    BAND,
    BAR,
    BLUE,
    GREEN,
    GREY,
    INK,
    ISO,
    MUTED,
    OUTCOME_COLOUR,
    PURPLE,
    SURFACE,
    SYMBOL,
    colour_scale,
    dots,
    empty_figure,
    entry,
    short,
    star,
    styled,
    trial_dots,
)
from gcsearch.results.tables.wording import counted, named, value_text
from gcsearch.stats import harmonic_mean

_MEANING = {
    "rho": "rho, radius of the perturbation",
    "beta1": "beta1, lower bound on the cosine",
    "beta2": "beta2, upper bound on the cosine",
    "lr": "lr, learning rate",
    "epochs": "epochs",
    "kg_lambda": "kg_lambda, weight of guidance",
    "prograd_lambda": "prograd_lambda, share removed",
    "nfl_lambda": "nfl_lambda, weight of other names",
    "nfl_count": "nfl_count, other names",
    "probe_epochs": "probe_epochs, of the probe run",
    "rank": "rank, directions kept",
    "n_ctx": "n_ctx, context vectors",
}
_OTHER_LINES = ((BLUE, "dash"), (GREEN, "dot"), (PURPLE, "dashdot"), (GREY, "longdash"))


_NAMED = 7  # configurations that a legend can name without taking the picture's place
_LANDMARKS = ("zeroshot", "coop", "sam", "gcscoop")


def draw_scatter(points: Sequence[ScatterPoint], champion: int | None, stage: Stage) -> go.Figure:
    """Base against new accuracy of the search, over curves of equal H; colour is rho where there is one."""
    figure = empty_figure(440)
    _iso_lines(figure, [(point.base, point.new) for point in points])
    radii = axis("rho", [point.rho for point in points if point.rho is not None])
    if not radii.log or any(point.rho is None for point in points):
        for outcome in Outcome:
            some = [point for point in points if point.outcome is outcome]
            if some:
                look = {"color": OUTCOME_COLOUR[outcome], "symbol": SYMBOL[outcome]}
                figure.add_trace(_dot_cloud(some, outcome.value, **look))
    else:
        figure.add_trace(_dot_cloud(points, "", **_coloured_by(radii, [point.rho or 0.0 for point in points])))
    best = [point for point in points if point.number == champion]
    if best:
        figure.add_trace(star(best[0].base, best[0].new, trial=champion))
    _name_sides(figure, stage)
    return figure


def _dot_cloud(points: Sequence[ScatterPoint], name: str, **marker: Any) -> go.Scatter:
    return trial_dots([p.base for p in points], [p.new for p in points], [p.number for p in points], name, **marker)


def _coloured_by(radii: Axis, values: Sequence[float]) -> dict[str, Any]:
    """Marker settings that colour by log10 of the radius, with its own ticks; 0 at the low end."""
    places = short([math.log10(float(radii.place(value))) for value in values])
    regular = decades(radii.low, radii.high)
    ticks = {math.log10(place): text for place, text in radii.special.items()}
    ticks |= {math.log10(place): value_text(place) for place in regular}
    bar = {"title": {"text": "rho", "font": {"size": 13}}, "tickvals": list(ticks), "ticktext": list(ticks.values())}
    return {"color": places, "colorscale": colour_scale(), "colorbar": bar | BAR, "size": 10}


def _iso_lines(figure: go.Figure, points: Sequence[tuple[float, float]]) -> None:
    """Curves of equal H behind the points, and axis ranges that fit the points."""
    ranges = []
    for side in range(2):
        values = [point[side] for point in points]
        pad = max(0.08 * (max(values) - min(values)), 0.75)
        ranges.append((max(min(values) - pad, 0.1), min(max(values) + pad, 100.9)))
    (left, right), (bottom, top) = ranges
    for level in round_steps(harmonic_mean(left, bottom), harmonic_mean(right, top), count=7):
        line = [(x, y) for x, y in iso_h(level, left, right, 200) if bottom <= y <= top]
        if len(line) < 2:
            continue
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in line], y=[y for _, y in line], mode="lines", hoverinfo="skip", showlegend=False,
                line={"color": ISO, "width": 1.2},
            )
        )  # fmt: skip
        x, y = line[-1]
        figure.add_annotation(
            x=x, y=y, text=f"H {level:g}", showarrow=False, font={"size": 11, "color": MUTED},
            xanchor="right", yanchor="bottom",
        )  # fmt: skip
    figure.update_xaxes(range=[left, right], showgrid=False)
    figure.update_yaxes(range=[bottom, top], showgrid=False)


def draw_confirmation(finals: Sequence[TrialRecord]) -> go.Figure:
    """Base against new accuracy on test images: each seed small, each configuration's mean large and named.

    The others of the shortlist are grey and tell their name on hovering; of many configurations all but the landmarks
    are.
    """
    figure = empty_figure(440)
    measured = filter(has_both_sides, finals)
    base_key, new_key = SIDES["test"]
    pairs = [(record, record.metrics[base_key], record.metrics[new_key]) for record in measured]
    _iso_lines(figure, [point for _, base, new in pairs for point in zip(base, new, strict=True)])
    colours = [BLUE, GREEN, PURPLE, AMBER, GREY]
    many = sum(record.role is not Role.SHORTLISTED for record, _, _ in pairs) > _NAMED
    for index, (record, base, new) in enumerate(pairs):
        mine, name = record.role is Role.CHAMPION, named(record)
        quiet = record.role is Role.SHORTLISTED or (many and not mine and record.config.method not in _LANDMARKS)
        colour = ACCENT if mine else GREY if quiet else colours[index % len(colours)]
        texts = [f"{html.escape(name)}, seed {seed}" for seed in record.seeds]
        figure.add_trace(dots(base, new, texts, size=6, color=colour, opacity=0.55, line={"width": 0}))
        x, y, text = fmean(base), fmean(new), f"{html.escape(name)}, mean of {counted(len(base), 'seed')}"
        if mine:
            figure.add_trace(star(x, y, text=text))
        else:
            shown = "" if quiet else entry(name)
            figure.add_trace(dots([x], [y], [text], shown, size=13, color=colour, symbol="diamond"))
    _name_sides(figure, "test")
    return figure


def _name_sides(figure: go.Figure, stage: Stage) -> None:
    base, new = (find(key).axis for key in SIDES[stage])
    figure.update_xaxes(title_text=base)
    figure.update_yaxes(title_text=new)


def draw_history(course: History, champion: int | None, objective: Metric) -> go.Figure:
    """Each trial with its deviation over seeds, and the best so far; trials without a number on the floor."""
    figure = empty_figure(360)
    known = [i for i, mean in enumerate(course.means) if math.isfinite(mean)]
    lost = sorted(set(range(len(course.numbers))) - set(known))
    for outcome in Outcome:
        here = [i for i in known if course.outcomes[i] is outcome]
        if here:
            trials, means = [course.numbers[i] for i in here], [course.means[i] for i in here]
            look = {"color": OUTCOME_COLOUR[outcome], "symbol": SYMBOL[outcome]}
            trace = trial_dots(trials, means, trials, outcome.value, **look)
            deviations = short([0.0 if math.isnan(course.deviations[i]) else course.deviations[i] for i in here])
            trace.error_y = {"type": "data", "array": deviations, "thickness": 1, "width": 0, "color": GREY}
            figure.add_trace(trace)
    if known:
        best = go.Scatter(
            x=course.numbers, y=short(course.best), mode="lines", name="best so far", hoverinfo="skip",
            line={"shape": "hv", "color": ACCENT},
        )  # fmt: skip
        figure.add_trace(best)
    for outcome in sorted({course.outcomes[i] for i in lost}):
        here = [i for i in lost if course.outcomes[i] is outcome]
        line = {"width": 2, "color": OUTCOME_COLOUR[outcome]}
        trials, name = [course.numbers[i] for i in here], f"{outcome.value}, no number"
        floor = trial_dots(trials, [0] * len(here), trials, name, symbol=SYMBOL[outcome], line=line)
        figure.add_trace(floor.update(yaxis="y2"))
    mine = [i for i in known if course.numbers[i] == champion]
    if mine:
        figure.add_trace(star(course.numbers[mine[0]], course.means[mine[0]], trial=champion))
    last = max(course.numbers)
    ticks = [tick for tick in round_steps(0, max(last, 1), count=10) if tick.is_integer()]
    figure.update_xaxes(title_text="trial, in the order of proposal", range=[-0.7, last + 0.7], tickvals=ticks)
    figure.update_yaxes(title_text=objective.axis, domain=[0.12 if lost else 0, 1])
    figure.update_layout(yaxis2={"domain": [0, 0.08], "range": [-1, 1], "visible": False})
    figure.update_layout(xaxis={"anchor": "free", "position": 0})
    return figure


def draw_slice(tried: Responses, name: str, champion: int | None, objective: Metric) -> go.Figure:
    """One hyperparameter: its value in every completed configuration that has it, against the objective."""
    shown, one = tried.having((name,)), tried.axes[name]
    places, values = [one.place(tried.records[i].config.values[name]) for i in shown], [tried.values[i] for i in shown]
    trials = [tried.records[i].number for i in shown]
    figure = styled(go.Figure([trial_dots(places, values, trials, size=8)]), 300, top=30)
    if one.words:
        figure.update_xaxes(categoryorder="array", categoryarray=one.words)
    if champion in trials:
        spot = trials.index(champion)
        figure.add_trace(star(places[spot], values[spot], trial=champion, legend=False))
    _apply(figure.update_xaxes, one)
    figure.update_yaxes(title_text=objective.axis)
    return figure


def draw_contour(
    tried: Responses, pair: tuple[str, str], ground: Surface | None, champion: int | None, objective: Metric
) -> go.Figure:
    """A map of two hyperparameters: each configuration a dot in the colour of its value, over `ground` if there is one.

    The lowest tenth of values shares one colour.
    """
    figure = styled(go.Figure(), 340, top=30)
    low, high = quantiles(tried.values, n=10, method="inclusive")[0], max(tried.values)
    if ground:
        figure.add_trace(_contours(ground, low, high))
    both = tried.having(pair)
    x, y = ([tried.axes[name].place(tried.records[i].config.values[name]) for i in both] for name in pair)
    trials = [tried.records[i].number for i in both]
    look: dict[str, Any] = {"size": 6, "line": {"width": 1, "color": INK}} if ground else {"size": 11}
    bar = {"title": {"text": objective.axis, "font": {"size": 13}, "side": "right"}} | BAR
    look |= {"color": short([tried.values[i] for i in both]), "colorscale": colour_scale(), "colorbar": bar}
    figure.add_trace(trial_dots(x, y, trials, cmin=low, cmax=high, **look))
    if champion in trials:
        spot = trials.index(champion)
        figure.add_trace(star(x[spot], y[spot], trial=champion, legend=False))
    _apply(figure.update_xaxes, tried.axes[pair[0]])
    _apply(figure.update_yaxes, tried.axes[pair[1]])
    return figure


def _contours(ground: Surface, low: float, high: float) -> go.Contour:
    rounded = [[round(value, 2) for value in row] for row in ground.z]
    steps = {"start": low, "end": high, "size": max(high - low, 0.01) / 12}
    return go.Contour(
        x=ground.x, y=ground.y, z=rounded, zmin=low, zmax=high, colorscale=colour_scale(), showscale=False,
        autocontour=False, contours=steps, line={"width": 0.4, "color": SURFACE}, connectgaps=False, hoverinfo="skip",
    )  # fmt: skip


def _apply(update: Callable[..., Any], one: Axis) -> None:
    update(title_text=_MEANING.get(one.name, one.name), **one.ticks())


def draw_importances(shares: Mapping[str, float]) -> go.Figure:
    """A bar per hyperparameter, the largest on top."""
    names = list(shares)[::-1]
    values = [100.0 * shares[name] for name in names]
    bar = go.Bar(
        x=values, y=names, orientation="h", marker={"color": BLUE},
        text=[f"{value:.0f} %" for value in values], textposition="outside", cliponaxis=False,
        hoverinfo="skip", width=0.6,
    )  # fmt: skip
    figure = empty_figure(70 + 38 * len(names), [bar])
    figure.update_xaxes(
        title_text="share of importance (%)", range=[0, 1.2 * max(values)], tickvals=round_steps(0, max(values))
    )
    figure.update_yaxes(showgrid=False, ticks="")
    return figure


def draw_curves(curves: Sequence[tuple[str, Curve]], objective: Metric) -> go.Figure:
    """Learning curves; the first is the champion's and has a band from the lowest to the highest seed."""
    figure = empty_figure(400)
    unit = f" {objective.unit.sign}" if objective.unit is PERCENT else ""
    for index, (name, one) in reversed(list(enumerate(curves))):
        if index == 0:
            figure.add_trace(_band(one, BAND[ACCENT]))
            line = {"color": ACCENT, "width": 3}
        else:
            colour, dash = _OTHER_LINES[(index - 1) % len(_OTHER_LINES)]
            line = {"color": colour, "width": 1.8, "dash": dash}
        template = f"{html.escape(name)}<br>epoch %{{x}}: %{{y:.2f}}{unit}<extra></extra>"
        figure.add_trace(
            go.Scatter(
                x=one.epochs, y=one.mean, mode="lines", name=entry(name), line=line, hovertemplate=template,
                legendrank=index + 1,
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="epoch", rangemode="tozero")
    figure.update_yaxes(title_text=f"{objective.axis}, mean over seeds")
    return figure


def _band(one: Curve, colour: str) -> go.Scatter:
    return go.Scatter(
        x=[*one.epochs, *reversed(one.epochs)], y=[*one.high, *reversed(one.low)], fill="toself", fillcolor=colour,
        line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False,
    )  # fmt: skip


def draw_shares(chosen: Branches) -> go.Figure:
    """Share of steps in each branch of the gradient rule."""
    figure = empty_figure(300)
    for name, values, colour in (
        ("plain", chosen.plain, GREY),
        ("projected", chosen.projected, BLUE),
        ("perturbed", chosen.perturbed, GREEN),
    ):
        figure.add_trace(
            go.Scatter(
                x=chosen.epochs, y=values, mode="lines", name=name, stackgroup="one", fillcolor=colour,
                line={"width": 0.5, "color": colour},
                hovertemplate=f"{name}: %{{y:.0f}} %, epoch %{{x}}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="share of steps (%)", range=[0, 100])
    return figure


def draw_cosine(chosen: Branches) -> go.Figure:
    """Cosine between the plain and the perturbed gradient, with the two bounds."""
    one = chosen.cosine
    figure = empty_figure(300, [_band(one, BAND[ACCENT])])
    figure.add_trace(
        go.Scatter(
            x=one.epochs, y=one.mean, mode="lines", name="cosine, mean over seeds", line={"color": ACCENT, "width": 3},
            hovertemplate="epoch %{x}: %{y:.3f}<extra></extra>", showlegend=False,
        )
    )  # fmt: skip
    for name, value in chosen.bounds.items():
        figure.add_hline(
            y=value, line={"color": MUTED, "width": 1.2, "dash": "dash"}, annotation_text=f"{name} {value_text(value)}",
            annotation_position="bottom right", annotation_font={"size": 12, "color": MUTED},
        )  # fmt: skip
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(title_text="cosine of the two gradients", range=[min([-0.05, *one.low]), 1.04])
    return figure
