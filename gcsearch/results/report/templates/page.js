// The page carries, compressed, plotly.js and JSON: `pictures` (for each `figure`, plotly's JSON in light colours, and
// `about` it its name and its numbers as CSV), `dark` (light colour -> dark colour) and `hovers` (what is said of a
// trial, by its number; a trace whose points are trials has their numbers as `customdata`).
'use strict';

const places = [...document.querySelectorAll('.figure')];
const atNight = matchMedia('screen and (prefers-color-scheme: dark)');
const onPaper = matchMedia('print');
let pictures = [], hovers = {}, dark = {};

async function unpacked(id) {
  const letters = atob(document.getElementById(id).textContent);
  const bytes = Uint8Array.from(letters, letter => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
}

const said = new Map();

function hover(trial) {
  if (!said.has(trial)) said.set(trial, about(trial));
  return said.get(trial);
}

function about(trial) {
  const [label, outcome, ...lines] = hovers.lines[trial];
  const head = `<b>trial ${trial}${label && `, ${label}`}</b> (${outcome})`;
  return [head, ...lines.map((line, i) => line && `${hovers.titles[i]} ${line}`).filter(line => line)].join('<br>');
}

function swapped(x) {
  if (typeof x === 'string') return dark[x] || x;
  if (Array.isArray(x)) return x.map(swapped);
  if (x && typeof x === 'object') return Object.fromEntries(Object.entries(x).map(([k, v]) => [k, swapped(v)]));
  return x;
}

// A copy of a picture's figure in the colours of the moment: plotly adds to what it is given.
function coloured(index, night = atNight.matches) {
  const { data, layout } = pictures[index].figure;
  return night ? swapped({ data, layout }) : structuredClone({ data, layout });
}

function draw(index) {
  const { data, layout } = coloured(index), place = places[index];
  for (const trace of data) if (trace.customdata) trace.text = trace.customdata.map(hover);
  layout.width = place.clientWidth;
  if (matchMedia('(pointer: coarse)').matches) layout.dragmode = false; // a finger scrolls the page
  Plotly.react(place, data, layout, { displayModeBar: false });
  place.dataset.drawn = 'yes';
}

// What is near is drawn at once, the rest when there is time, or all when it is printed.
const waiting = new Set();

function drawWaiting(index) {
  if (waiting.delete(index)) draw(index);
}

function drawAll() {
  for (const index of [...waiting]) drawWaiting(index);
}

function redraw() {
  places.forEach((_, index) => waiting.has(index) || draw(index));
}

function whenIdle() {
  const [next] = waiting;
  if (next === undefined) return;
  drawWaiting(next);
  (window.requestIdleCallback || setTimeout)(whenIdle);
}

function forPaper(on) {
  document.documentElement.classList.toggle('printing', on); // as wide as paper, so that pictures are drawn for it
  drawAll();
  redraw();
}

function watchWidth() {
  let width = innerWidth, timer;
  addEventListener('resize', () => {
    if (innerWidth === width || onPaper.matches) return;
    width = innerWidth;
    clearTimeout(timer);
    timer = setTimeout(redraw, 100);
  });
}

async function start() {
  if (!places.length) return;
  try {
    ({ pictures, hovers, dark } = JSON.parse(await unpacked('packed-data')));
    const script = document.createElement('script');
    script.textContent = await unpacked('packed-plotly');
    document.head.append(script);
  } catch (error) {
    places.forEach(place => { place.textContent = `This browser cannot draw the pictures: ${error.message}`; });
    throw error;
  }
  places.forEach((_, index) => waiting.add(index));
  const near = new IntersectionObserver(seen => {
    for (const one of seen) if (one.isIntersecting) drawWaiting(places.indexOf(one.target));
  }, { rootMargin: '400px' });
  places.forEach(place => near.observe(place));
  (window.requestIdleCallback || setTimeout)(whenIdle);
  atNight.addEventListener('change', redraw);
  onPaper.addEventListener('change', () => forPaper(onPaper.matches));
  addEventListener('beforeprint', () => forPaper(true));
  addEventListener('afterprint', () => forPaper(false));
  watchWidth();
}

// --- The numbers of a picture: a table, and files of them and of the picture

function parsed(csv) {
  const rows = [[]];
  for (const [, quoted, plain, end] of csv.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === '') break;
    if (end === '\n') rows.push([]);
  }
  return rows.filter(row => row.length > 1 || row[0]);
}

function made(tag, text = '', properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// Digits that a person reads; the file has all.
function readable(text) {
  return /^-?\d+\.(0|\d{5,})(e-?\d+)?$/.test(text) ? String(Number(Number(text).toPrecision(6))) : text;
}

function save(name, address) {
  made('a', '', { href: address, download: name }).click();
}

async function saveImage(index, format) {
  const { data, layout } = coloured(index, false), { clientWidth: width, clientHeight: height } = places[index];
  layout.paper_bgcolor = 'white';
  save(`${pictures[index].about.name}.${format}`, await Plotly.toImage({ data, layout }, { format, width, height, scale: format === 'png' ? 2 : 1 }));
}

function numbers(index) {
  const { name, csv, rows } = pictures[index].about;
  const buttons = made('p', '', { className: 'buttons' });
  const content = document.createDocumentFragment();
  const button = (title, press) => buttons.append(made('button', title, { type: 'button', onclick: press }));
  content.append(buttons);
  if (csv === null) {
    content.append(made('p', `${rows} rows, too many for a page: gcsearch report with --figures writes them to ${name}.csv.`));
  } else {
    button('Save CSV', () => save(`${name}.csv`, URL.createObjectURL(new Blob([csv], { type: 'text/csv' }))));
    const [titles, ...body] = parsed(csv), table = made('table'), box = made('div', '', { className: 'scroll tall', tabIndex: 0 });
    const head = table.createTHead().insertRow();
    titles.forEach(title => head.append(made('th', title, { scope: 'col' })));
    const lines = table.createTBody();
    for (const row of body) {
      const line = lines.insertRow();
      row.forEach(text => { line.insertCell().textContent = readable(text); });
    }
    box.append(table);
    content.append(box);
  }
  button('Save PNG', () => saveImage(index, 'png'));
  button('Save SVG', () => saveImage(index, 'svg'));
  return content;
}

document.querySelectorAll('details.numbers').forEach((details, index) => {
  details.addEventListener('toggle', () => {
    if (details.open && pictures.length && details.children.length === 1) details.append(numbers(index));
  });
});

// --- Tables that are sorted by their headings; of a long one the first rows are shown

const SHOWN = 200;

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
  let rows = [...body.rows], all = rows.length <= SHOWN;
  const show = () => rows.forEach((row, place) => { row.hidden = !all && place >= SHOWN; });
  headings.forEach((heading, column) => {
    heading.querySelector('button').addEventListener('click', () => {
      const up = heading.getAttribute('aria-sort') !== 'ascending';
      headings.forEach(other => other.removeAttribute('aria-sort'));
      heading.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const keys = new Map(rows.map(row => [row, key(row, column)]));
      rows = rows.sort((r, s) => compare(keys.get(r), keys.get(s), up));
      show();
      body.append(...rows);
    });
  });
  if (all) return;
  show();
  const more = made('button', `Show all ${rows.length} rows`, { type: 'button', className: 'more' });
  more.addEventListener('click', () => { all = true; show(); more.remove(); });
  table.parentElement.after(more);
});

start();
