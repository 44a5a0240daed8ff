// The page defines `figures` (plotly's JSON, light colours), `dark` (light colour -> dark colour) and `hovers` (what
// is said of a trial, by its number; a trace whose points are trials has their numbers as `customdata`).

const scheme = matchMedia('(prefers-color-scheme: dark)');

function swap(x) {
  if (typeof x === 'string') return dark[x] || x;
  if (Array.isArray(x)) return x.map(swap);
  if (x && typeof x === 'object') return Object.fromEntries(Object.entries(x).map(([k, v]) => [k, swap(v)]));
  return x;
}

function hover(trial) {
  const [label, outcome, ...lines] = hovers.lines[trial];
  const head = `<b>trial ${trial}${label && `, ${label}`}</b> (${outcome})`;
  return [head, ...lines.map((line, i) => line && `${hovers.titles[i]} ${line}`).filter(line => line)].join('<br>');
}

figures.forEach(figure => figure.data.forEach(trace => {
  if (trace.customdata) trace.text = trace.customdata.map(hover);
}));

function draw() {
  figures.forEach((figure, index) => {
    const { data, layout } = scheme.matches ? swap(figure) : structuredClone(figure);
    Plotly.react('figure-' + index, data, layout, {
      displaylogo: false,
      responsive: true,
      displayModeBar: 'hover',
      modeBarButtons: [['toImage', 'zoom2d', 'pan2d', 'resetScale2d']],
    });
  });
}

if (figures.length) {
  draw();
  scheme.addEventListener('change', draw);
}

// What a cell is sorted by: its words, in which the minus sign is typeset; null for what is missing.
function key(row, column) {
  const text = row.cells[column].textContent;
  return text === '' || text === '–' ? null : text.replace('−', '-');
}

// The number that a cell begins with, as in `83.10 ± 0.82` and `1 *`.
const number = text => Number(text.split(' ')[0]);

// Numbers before words when ascending; what is missing comes last either way.
function compare(a, b, up) {
  if (a === null || b === null) return (a === null) - (b === null);
  const x = number(a), y = number(b), words = isNaN(x) - isNaN(y);
  return (up ? 1 : -1) * (words || (isNaN(x) ? a.localeCompare(b) : x - y));
}

document.querySelectorAll('table.sortable').forEach(table => {
  const headings = table.querySelectorAll('th'), body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const sort = () => {
      const up = heading.getAttribute('aria-sort') !== 'ascending';
      headings.forEach(other => other.removeAttribute('aria-sort'));
      heading.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      [...body.rows].sort((r, s) => compare(key(r, column), key(s, column), up)).forEach(row => body.append(row));
    };
    heading.addEventListener('click', sort);
    heading.addEventListener('keydown', event => { if (event.key === 'Enter') sort(); });
  });
});
