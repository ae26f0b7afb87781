"The report is one self-contained page, whatever the run lacks."
import copy, json, math, os, re
from html.parser import HTMLParser
from pathlib import Path
import pytest
from invented import invented_run
from storm import some
from videop2r.engine.paint import smooth
from videop2r.tools.page import Chart, file_uri, playing, table
from videop2r.show import rollout_html
from fastcore.xml import to_xml
from videop2r.tools.report import Report, headline, write_report

INDEX = Path(__file__).resolve().parents[1]/'nbs'/'4_evidence'/'first'
EVIL = '<script>alert(1)</script><img src=x onerror=alert(1)>"\'&'
VOID = {'meta', 'img', 'br', 'hr', 'path', 'rect', 'use'}


class Page(HTMLParser):
    "Collects tags and what they would load; checks that tags close in order"
    def __init__(self):
        super().__init__()
        self.tags, self.loads, self.handlers, self.open = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID: self.open.append(tag)
        self.note(tag, attrs)

    def handle_startendtag(self, tag, attrs): self.tags.append(tag); self.note(tag, attrs)

    def handle_endtag(self, tag):
        if tag not in VOID: assert self.open.pop() == tag

    def note(self, tag, attrs):
        self.handlers += [k for k, _ in attrs if k.startswith('on')]
        self.loads += [v for k, v in attrs if k in ('src', 'srcset', 'href', 'xlink:href', 'data', 'action', 'poster')]


def parsed(html):
    page = Page()
    page.feed(html)
    page.close()
    assert not page.open
    return page


def small(seed=0):
    "A short run with few curves, since drawing is what takes the time"
    report = invented_run(seed=seed, steps=3)
    for arm in report['rl'].values():
        arm['rows'] = [{k: v for k, v in row.items() if k in ('step', 'reward_perception', 'zero_variance_reasoning', 'kl', 'seconds_update')} for row in arm['rows']]
    return report


def everywhere(x, text):
    "`x` with `text` in place of every string that a person or a model may have written"
    if isinstance(x, dict): return {k: everywhere(v, text) for k, v in x.items()}
    if isinstance(x, list): return [everywhere(v, text) for v in x]
    return text if isinstance(x, str) else x


def poisoned(x, value):
    if isinstance(x, dict): return {k: poisoned(v, value) for k, v in x.items()}
    if isinstance(x, list): return [poisoned(v, value) for v in x]
    return value if isinstance(x, float) else x


def test_page_is_self_contained():
    html = Report(invented_run()).html()
    page = parsed(html)
    assert all(l.startswith(('data:image/', 'data:video/', '#')) for l in page.loads)
    assert not {'script', 'link', 'iframe', 'object', 'embed', 'base'} & set(page.tags)
    assert '@import' not in html and not re.search(r'url\(\s*["\']?(?!#)', html)
    assert len(html) < 400_000


def test_every_text_is_escaped():
    page = parsed(Report(everywhere(small(), EVIL) | dict(title=EVIL)).html())
    assert 'script' not in page.tags and not page.handlers and 'x' not in page.loads


@pytest.mark.parametrize('name', ['clip', 'sheet'])
@pytest.mark.parametrize('sheet', ['https://example.org/a.png', 'javascript:alert(1)', 'data:text/html;base64,AAAA', None, 3])
def test_clip_and_sheet_must_be_inline_images(name, sheet):
    report = small()
    report['example'] |= dict(clip=None, sheet=None) | {name: sheet}
    html = Report(report).html()
    assert 'No inline clip or contact sheet' in html and 'img' not in parsed(html).tags


@pytest.mark.parametrize('gone', some(sorted(invented_run(steps=2)), ('rl', 'sft', 'table', 'example', 'seed')))
def test_any_section_may_be_missing(gone):
    report = small()
    for missing in (None, type(report[gone])()):
        parsed(Report(report | {gone: missing}).html())
    del report[gone]
    parsed(Report(report).html())


def test_empty_report_has_a_page():
    assert '<section' not in (html := Report().html())
    parsed(html)


def test_without_grpo_the_headline_says_so():
    report = small()
    del report['rl']['grpo'], report['compare']
    report['table'] = [r for r in report['table'] if r['arm'] != 'grpo']
    html = Report(report).html()
    assert 'GRPO was not trained' in html and 'was above GRPO' not in html
    report['rl']['grpo'] = None
    parsed(Report(report).html())


@pytest.mark.parametrize('lo,hi,word', [(.01, .2, 'above'), (-.2, -.01, 'below'), (-.1, .1, 'not shown'), (0., .1, 'not shown'),
                                        (math.nan, .1, 'not compared'), (None, None, 'not compared')])
def test_headline_follows_the_interval(lo, hi, word):
    report = small()
    report['compare']['sufficient'] = dict(diff=.05, lo=lo, hi=hi)
    assert word in headline(report)[0]


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf, None])
def test_values_may_be_missing_everywhere(value):
    html = Report(poisoned(invented_run(steps=5), value)).html()
    text = re.sub(r'<style>.*?</style>|<[^>]*>', ' ', html, flags=re.S)
    assert not re.search(r'\b(nan|inf|None)\b', text)
    assert 'was above' not in html


def test_missing_verdict_is_grey_not_zero():
    report = small()
    rollout = report['example']['rollouts'][0]
    rollout['advantages'] = [math.nan] * len(rollout['tokens'])
    html = rollout_html(report['example'], 0)
    assert html.count(', no number"') == len(rollout['tokens']) and '+0.00' not in html


def test_rollout_lists_must_agree():
    report = small()
    report['example']['rollouts'][0]['segments'].pop()
    with pytest.raises(ValueError, match='one of each per token'): Report(report).html()


def test_render_changes_nothing():
    report = small()
    before = copy.deepcopy(report)
    assert Report(report).html() == Report(report).html()
    assert repr(report) == repr(before)


def test_written_report_is_strict_json_and_reads_back(tmp_path):
    report = small() | dict(where=tmp_path, loss=math.nan)
    write_report(report, tmp_path/'new'/'run')
    strict = json.loads((tmp_path/'new'/'run'/'report.json').read_text(), parse_constant=lambda c: pytest.fail(c))
    assert strict['rl']['pagrpo']['rows'][1]['reward_perception'] is None and strict['loss'] is None
    again = Report.load(tmp_path/'new'/'run')
    assert Report(again).html() == (tmp_path/'new'/'run'/'report.html').read_text()


def test_failed_write_keeps_the_old_report(tmp_path, monkeypatch):
    write_report(small(), tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    def full(*a, **k): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'replace', full)
    with pytest.raises(OSError, match='No space'): write_report(small(seed=1), tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_unwritable_folder_is_an_os_error(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(OSError): write_report(small(), tmp_path/'file')


def test_unreadable_report_names_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='--out'): Report.load(tmp_path)
    (tmp_path/'report.json').write_text('{"title": ')
    with pytest.raises(ValueError, match='report.json'): Report.load(tmp_path)


def test_labels_of_a_picture_keep_their_figures():
    "Coordinates are rounded, tick labels are not"
    assert '>0.015<' in Chart(lambda ax: (ax.plot([.01, .02]), ax.set_yticks([.01, .015, .02])), 'a line').svg()


def test_smooth_against_a_plain_loop():
    y = [1., math.nan, 3., 4., math.nan, math.nan, math.nan, 2.]
    for i, v in enumerate(smooth(y, 3)):
        near = [a for a in y[max(0, i-1):i+2] if not math.isnan(a)]
        assert (math.isnan(v) and not near) or v == pytest.approx(sum(near)/len(near))


def several():
    "A report with groups of two arms at two steps; the last is the one whose processes part most"
    report = small()
    example = report.pop('example')
    report['examples'] = [copy.deepcopy(example) | dict(arm=arm, step=step) for arm in ('pagrpo', 'grpo') for step in (0, 9)]
    report['examples'][-1]['rollouts'][0]['advantage'] = dict(perception=9., reasoning=-9.)
    return report


@pytest.fixture(scope='module')
def page_of_several(): return Report(several()).html()


def test_reader_chooses_arm_step_and_group(page_of_several):
    html = page_of_several
    assert html.count('type="radio"') == 4 and html.count('class="panel panel-') == 4
    rules = dict(re.findall(r'\.pick((?::has\(#[\w-]+:checked\))+)>\.panel-(\d)', html))
    assert sorted(rules.values()) == list('0123') and len(rules) == 4, 'one choice, one group'
    first = next(rule for rule, panel in rules.items() if panel == '0')
    checked = {tag[1] for tag in re.finditer(r'<input[^>]*id="([\w-]+)"[^>]*>', html) if ' checked' in tag[0]}
    assert set(re.findall(r'#([\w-]+):', first)) == checked, 'the group that parts most is the one in view'
    assert '+9.00' in html.split('panel-0"')[-1].split('panel-1"')[0]


def test_tokens_are_reached_by_keyboard_and_pictures_have_titles(page_of_several):
    html = page_of_several
    tokens = sum(len(r['tokens']) for each in several()['examples'] for r in each['rollouts'])
    assert html.count('class="token" tabindex="0"') == tokens
    assert html.count('<svg ') == html.count('<title>') - 1 == html.count('role="img"')


def test_dark_and_narrow(page_of_several):
    html = page_of_several
    head, body = html.split('</head>')
    assert 'prefers-color-scheme:dark' in head and 'var(--grpo)' in body and '#111827' not in body and '#5f6b7c' not in body
    assert to_xml(table(['arm', 'right'], [['x', '3']])).count('data-label="right"') == 1


def test_what_a_person_wrote_keeps_its_colours():
    html = Report(dict(notes=['the colour #111827'])).html()
    assert 'the colour #111827' in html


def test_series_that_never_move_are_one_line():
    report = small()
    for arm in report['rl'].values():
        for row in arm['rows']: row |= dict(truncated=0., missing_verdicts=0.)
    html = Report(report).html()
    assert 'The same at every step: truncated responses 0.00, missing verdicts 0.00.' in html and 'Truncated responses of' not in html


def test_surprise_is_the_largest_step_back():
    rows = lambda *means: [dict(arm=arm, exact=dict(mean=m, lo=m - .01, hi=m + .01)) for arm, m in zip(('base', 'sft', 'grpo', 'pagrpo'), means)]
    assert Report(table=rows(.1, .2, .3, .4)).surprise() == ''
    found = Report(table=rows(.1, .5, .4, .6), control=rows(.9, .3, .5, .5)).surprise()
    assert found == 'Most surprising on the control group: exactly right, Base 90.0% and after it SFT 30.0%; their intervals do not overlap.'


@pytest.mark.parametrize('clip', ['https://example.org/a.mp4', 'data:text/html;base64,AAAA', 'data:image/svg+xml;base64,AAAA', 7, None])
def test_a_clip_is_held_in_the_page_or_left_out(clip): assert playing(clip, 'a clip') == ''


def test_a_clip_plays(tmp_path):
    (tmp_path/'a.mp4').write_bytes(b'0'*30)
    report = small()
    report['example']['clip'] = file_uri(tmp_path/'a.mp4')
    assert 'video' in parsed(Report(report).html()).tags and file_uri(tmp_path/'a.mp4', most=10) is None


def test_stored_reports_still_have_a_page():
    for path in sorted(INDEX.glob('seed*')): assert 'What PA-GRPO changed' in Report(Report.load(path)).html()
