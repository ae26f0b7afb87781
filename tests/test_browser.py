"What a reader touches, in a real browser: pages without a kernel, and JupyterLab. Where there is none, this says *not run*."
import json, math, os, random, re, shutil, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest
import torch
from videop2r.advantages import ADVANTAGES, CREDIT, broadcast, credit, normalise, token_weights
from videop2r.data import read_records
from videop2r.engine import lab, script
from videop2r.show import recredit
from videop2r.world import from_record, gold_observation, samples
from storm import storm
from team import free_port

ROOT = Path(__file__).resolve().parents[1]
BOOKS = sorted(p for p in ROOT.glob("nbs/**/*.ipynb") if ".ipynb_checkpoints" not in p.parts)
api = pytest.importorskip("playwright.sync_api", reason="not run: Playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="not run: no Chromium among the commands")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
WAYS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]

def shot(page, name):
    "A picture where SHOTS names a folder."
    if folder := os.environ.get("SHOTS"): page.screenshot(path=f"{folder}/{name}.png", full_page=True)

@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()

class Opened:
    "A page that holds some HTML and nothing else; whatever it asks for or throws is listed."
    def __init__(self, browser, html, width=1280, scheme="light", **how):
        self.context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme, **how)
        self.page, self.faults = self.context.new_page(), []
        self.page.set_default_timeout(600_000)
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("request", lambda r: self.faults.append(r.url) if not r.url.startswith(("data:", "about:", "blob:")) else None)
        self.page.set_content(f'<!doctype html><html lang="en"><meta charset="utf-8"><body style="margin:8px">{html}')

    def __enter__(self): return self.page
    def __exit__(self, kind, *error):
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        self.context.close()
        if kind is None: assert not self.faults and wide <= 0, (self.faults, wide)

@pytest.fixture(scope="module")
def group(): return json.loads((ROOT / "data_samples/group.json").read_text())

# the credit lab

def drawn(rng):
    "Random rewards of a group with gaps and constant columns, a matrix, an estimator."
    g, flat, lost = rng.randint(2, 9), rng.random() < .3, rng.choice([0, .2, .6])
    def reward(): return 1.2 if flat else rng.choice([rng.uniform(0, 2.2), 1., 2.2])
    rewards = [[math.nan if rng.random() < lost else reward(), reward()] for _ in range(g)]
    matrix = rng.choice([*CREDIT.values(), [[round(rng.uniform(-1, 1), 1) for _ in "ab"] for _ in "cd"]])
    return rewards, matrix, rng.choice(list(ADVANTAGES))

def test_arithmetic_is_that_of_the_lesson(browser):
    rng = random.Random(0)
    given = [drawn(rng) for _ in range(500)]
    asked = [([[None if x != x else x for x in row] for row in rewards], matrix, ADVANTAGES[how]) for rewards, matrix, how in given]
    work = f"groups => {{ const known = x => typeof x === 'number' && Number.isFinite(x); {lab.ARITHMETIC}" \
           "return groups.map(group => advantages(...group)); }"
    with Opened(browser, "") as page: found = page.evaluate(work, asked)
    for (rewards, matrix, how), ours in zip(given, found):
        wanted, valid = normalise(credit(torch.tensor(rewards, dtype=torch.float64), matrix), **ADVANTAGES[how])
        assert [[x is not None for x in row] for row in ours] == valid.tolist()
        got = torch.tensor([[0. if x is None else x for x in row] for row in ours], dtype=torch.float64)
        assert torch.allclose(got, wanted.where(valid, torch.zeros(())), atol=1e-6)

def test_tokens_get_what_the_lesson_broadcasts(browser):
    rng, given = random.Random(1), []
    for _ in range(100):
        segments = [rng.randrange(3) for _ in range(rng.randint(1, 12))]
        given.append((segments, [rng.choice([None, rng.uniform(-2, 2)]) for _ in range(2)]))
    work = f"rows => {{ const known = x => typeof x === 'number' && Number.isFinite(x); {lab.ARITHMETIC} return rows.map(row => spread(...row)); }}"
    with Opened(browser, "") as page: found = page.evaluate(work, given)
    for (segments, advantage), ours in zip(given, found):
        masks = torch.tensor([[s in (k, 2) for s in segments] for k in range(2)])[None]
        valid = torch.tensor([[a is not None for a in advantage]])
        weights = token_weights(masks, valid=valid, dtype=torch.float64)
        wanted = broadcast(torch.tensor([[a or 0. for a in advantage]], dtype=torch.float64), weights)[0]
        none = weights.sum(1)[0] == 0
        assert [x is None for x in ours] == none.tolist()
        assert torch.allclose(torch.tensor([x or 0. for x in ours], dtype=torch.float64), wanted, atol=1e-6)

def numbers(page): return page.eval_on_selector_all("section .text", "boxes => boxes.map(b => [...b.querySelectorAll('small')].map(s => s.textContent))")

def signed(x): return f"{'▲' if x > 0 else '▼' if x < 0 else '■'} {x:+.2f}".replace("-", "−")

@pytest.mark.parametrize("width, scheme", WAYS)
def test_credit_lab_answers(browser, group, width, scheme):
    with Opened(browser, lab.credit_lab(group), width, scheme) as page:
        assert "by its own reward" in page.inner_text(".said")
        before = page.eval_on_selector_all(".text span", "all => all.map(s => s.style.background)")
        page.click("[data-preset=grpo]")
        assert "▲ Praised" in page.inner_text(".said") and "▼ Blamed" in page.inner_text(".said")
        assert page.eval_on_selector_all(".text span", "all => all.map(s => s.style.background)") != before
        wanted = [[signed(r["advantage"][p]) for p in ("perception", "reasoning")] for r in recredit(group, "grpo")["rollouts"]]
        assert numbers(page) == wanted
        shot(page, f"lab_{width}_{scheme}")
        slider = page.locator("section input[type=range]").first
        slider.focus()
        page.keyboard.press("ArrowLeft")
        page.click("[data-preset=pagrpo]")
        assert numbers(page)[0][0] != signed(group["rollouts"][0]["advantage"]["perception"])
        page.get_by_text("no verdict").first.click()
        assert numbers(page)[0][0] == "no number" and page.locator("section input[type=range]").first.is_disabled()
        page.get_by_text("rewards as they were").click()
        assert numbers(page)[0][0] == signed(group["rollouts"][0]["advantage"]["perception"])

def test_matrix_and_tokens_by_keys(browser, group):
    with Opened(browser, lab.credit_lab(group)) as page:
        before = numbers(page)
        page.get_by_label("share of R_R in perception", exact=True).fill("1")
        assert numbers(page) != before and page.get_by_label("share of R_R in perception: 0 or 1").is_checked()
        page.get_by_label("share of R_R in perception: 0 or 1").uncheck()
        assert numbers(page) == before
        page.locator(".text span").first.focus()
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.previousElementSibling.tagName") == "SPAN"
        assert "perception, ▲" in page.inner_text("p.soft")

def background(page): return page.eval_on_selector(".vp-live", "e => getComputedStyle(e).backgroundColor")

def test_dark_by_the_system_by_jupyterlab_and_by_the_site(browser, group):
    with Opened(browser, lab.credit_lab(group), scheme="dark") as page:
        dark = background(page)
        page.evaluate("document.body.dataset.jpThemeLight = 'true'")
        light = background(page)
        assert light == "rgb(255, 255, 255)" != dark
    with Opened(browser, lab.credit_lab(group)) as page:
        page.evaluate("document.body.dataset.jpThemeLight = 'false'")
        assert background(page) == dark
        page.evaluate("delete document.body.dataset.jpThemeLight; document.documentElement.dataset.theme = 'dark'")
        assert background(page) == dark

def test_two_copies_do_not_disturb_each_other(browser, group):
    with Opened(browser, lab.credit_lab(group) * 2) as page:
        page.locator("[data-preset=grpo]").nth(1).click()
        first, second = page.locator(".said").all_inner_texts()
        assert "own reward" in first and "Praised" in second

# what stands where no script runs

@pytest.fixture(scope="module")
def pieces(group):
    from videop2r.engine.film import training_film
    from videop2r.engine.quiz import QuizItem
    from videop2r.engine import scrubber # gives a Film its `scrubber`
    from videop2r.engine.decode import open_film
    clip = next((ROOT / "data_samples/clips").glob("*.mp4"))
    return dict(lab=lab.credit_lab(group), quiz=QuizItem.quiz(QuizItem.kept()), film=training_film(film()), scrubber=open_film(clip).scrubber())

def film():
    "The invented film of its page."
    cells = json.loads((ROOT / "nbs/engine/film.ipynb").read_text())["cells"]
    found = {}
    for cell in cells[:8]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and "default_exp" not in source: exec(source, found)
    return found["invented"]

def test_without_script_something_stands_there(browser, pieces):
    for name, html in pieces.items():
        with Opened(browser, html, java_script_enabled=False) as page:
            text = page.inner_text("[data-live]")
            assert len(text) > 40 and page.locator("[data-live] img").count(), name
            shot(page, f"{name}_static")
        bare = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
        with Opened(browser, bare, 390) as page: assert page.inner_text("[data-live]").strip(), name

def test_every_picture_has_words(browser, pieces):
    for name, html in pieces.items():
        with Opened(browser, html) as page:
            assert not page.eval_on_selector_all("img", "all => all.filter(i => !i.alt).length"), name
            assert not page.eval_on_selector_all("svg, [role=img]", "all => all.filter(i => !i.getAttribute('aria-label')).length"), name

# the quiz, the film, the scrubber

@pytest.mark.parametrize("width, scheme", WAYS[1:3])
def test_quiz_by_keys(browser, pieces, width, scheme):
    from videop2r.engine.quiz import QuizItem
    items, keys = QuizItem.kept(), dict(sufficient="1", insufficient="2", contradicts="3")
    with Opened(browser, pieces["quiz"], width, scheme) as page:
        page.locator("[data-verdict]").first.focus()
        for i, item in enumerate(items):
            page.keyboard.press(keys[item.verdict] if i else "1" if keys[item.verdict] != "1" else "2")
            assert ("✓ The oracle agrees" if i else "✗ The oracle does not") in page.inner_text(".said")
            if i == 2: shot(page, f"quiz_{width}_{scheme}")
            page.keyboard.press("Enter")
        assert "You agreed with the oracle in 11 of 12" in page.inner_text(".said")

@pytest.mark.parametrize("width, scheme", WAYS)
def test_film_moves(browser, pieces, width, scheme):
    with Opened(browser, pieces["film"], width, scheme) as page:
        said, line = page.inner_text(".said"), page.get_attribute("svg line", "x1")
        page.locator("input[type=range]").focus()
        page.keyboard.press("ArrowRight")
        assert page.inner_text(".said") != said and page.get_attribute("svg line", "x1") != line
        assert page.locator("input[type=range]").get_attribute("aria-valuetext") == "step 10"
        assert "✓ suffices" in page.inner_text(".two >> nth=1") and "✗ lacks" in page.inner_text(".two >> nth=1")
        shot(page, f"film_{width}_{scheme}")
        page.get_by_role("group", name="question").get_by_role("button").nth(1).click()
        assert film()["questions"][1]["problem"] in page.inner_text(".vp-live")
        page.get_by_text("▶ play").click()
        page.wait_for_function("document.querySelector('input[type=range]').value == 2")
        page.wait_for_function("document.querySelector('button').textContent.includes('play')") # it ends by itself

@pytest.mark.parametrize("width, scheme", WAYS[1:3])
def test_scrubber_moves(browser, pieces, width, scheme):
    with Opened(browser, pieces["scrubber"], width, scheme) as page:
        assert "▲ sampled, number 1 of" in page.inner_text(".said")
        place = page.get_attribute("[role=img]", "style")
        page.locator("input[type=range]").focus()
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("[role=img]", "style") != place
        marks = page.locator("span", has_text=re.compile("^▲$"))
        before = marks.count()
        page.locator("select").last.select_option("2")
        assert marks.count() == 2 < before and "not sampled" in page.inner_text(".said")
        shot(page, f"scrubber_{width}_{scheme}")

def test_report_fits(browser):
    from invented import invented_run
    from videop2r.tools.report import Report
    html = Report(invented_run(steps=12)).html()
    for width, scheme in WAYS:
        page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
        page.set_content(html)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shot(page, f"report_{width}_{scheme}")
        page.close()

# the site

@pytest.fixture(scope="module")
def site():
    "The folder of the site's pages, made anew."
    pytest.importorskip("sphinx", reason="not run: Sphinx is not installed (make site installs it)")
    done = subprocess.run([sys.executable, "scripts/site.py"], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr[-3000:]
    return ROOT / "build/site"

def walk(browser, pages, width, scheme):
    "What is wrong with pages as a file opens them: width, pictures, errors, what they would fetch."
    context, wrong = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme), []
    page, faults = context.new_page(), []
    page.on("pageerror", lambda e: faults.append(str(e)))
    page.on("request", lambda r: faults.append(r.url) if not r.url.startswith(("file:", "data:", "about:", "blob:")) else None)
    for path in pages:
        faults.clear()
        page.goto(path.as_uri())
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        bad = page.eval_on_selector_all("article img", "all => all.filter(i => !i.alt || i.complete && !i.naturalWidth).length")
        if wide > 0 or bad or faults: wrong.append((path.name, wide, bad, faults[:2]))
    context.close()
    return wrong

@storm
def test_every_page_of_the_site_fits_a_phone(browser, site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 100 and not walk(browser, pages, 390, "dark")

@storm
@pytest.mark.parametrize("width, scheme", WAYS)
def test_lessons_of_the_site(browser, site, width, scheme):
    pages = [site / "index.html", *sorted(site.glob("[0-5]_*/*.html"))]
    assert len(pages) > 35 and not walk(browser, pages, width, scheme)

@storm
@pytest.mark.parametrize("width, scheme", WAYS)
def test_credit_lab_of_the_site(browser, site, width, scheme):
    page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
    page.goto((site / "1_method/8_show.html").as_uri())
    page.click(".vp-live [data-preset=grpo]")
    said = page.inner_text(".vp-live .said")
    page.click(".vp-live [data-preset=pagrpo]")
    assert "Praised" in said and page.inner_text(".vp-live .said") != said
    assert (background(page) == "rgb(255, 255, 255)") == (scheme == "light")
    shot(page, f"site_lab_{width}_{scheme}")
    page.close()

# JupyterLab

FAST = ["1_method/8_show.ipynb", "engine/lab.ipynb"]
RUN = [p for p in BOOKS if "skip_exec: true" not in p.read_text(encoding="utf-8")] # the others need a card, or an hour
REST = [name for p in RUN if (name := str(p.relative_to(ROOT / "nbs"))) not in FAST]
FAULTS = '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]'

@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "The address of a JupyterLab that serves a copy of the repository, which nobody has trusted."
    work = tmp_path_factory.mktemp("lab")
    for name in ("nbs", "data_samples", "scripts", "benchmarks", "tests"): shutil.copytree(ROOT / name, work / "copy" / name)
    for path in ROOT.glob("*.*"):
        if path.is_file(): shutil.copy(path, work / "copy")
    port = free_port()
    own = {f"{name}_DIR": str(work / name) for name in ("JUPYTER_CONFIG", "JUPYTER_DATA", "JUPYTER_RUNTIME")}
    env = os.environ | own | dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), OMP_NUM_THREADS="1", IPYTHONDIR=str(work / "ipython"))
    args = ["--no-browser", "--allow-root", f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={work / 'copy'}",
            "--expose-app-in-browser", "--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(work / "lab.log", "w") as log:
        process = subprocess.Popen([sys.executable, "-m", "jupyterlab", *args], cwd=work, env=env, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try: urllib.request.urlopen(f"{url}/api", timeout=2); break
            except OSError: time.sleep(.5)
            assert process.poll() is None, (work / "lab.log").read_text()
        yield url
    finally:
        process.terminate()
        process.wait(300)

OPEN = "!!(window.jupyterapp && jupyterapp.shell.currentWidget && jupyterapp.shell.currentWidget.content && document.querySelector('.jp-Notebook .jp-Cell'))"
READY = "(() => { const c = jupyterapp.shell.currentWidget.sessionContext; return !!c && c.isReady && !!c.session })()"
IDLE = "(() => { const c = jupyterapp.shell.currentWidget.sessionContext; return c.session.kernel.status === 'idle' })()"

@pytest.fixture
def notebook(server, browser):
    "Opens a notebook of the copy in a page of its own."
    context = browser.new_context(viewport=dict(width=1280, height=1400))
    page = context.new_page()
    page.set_default_timeout(600_000)
    def opened(name):
        page.goto(f"{server}/lab/tree/nbs/{name}?reset")
        page.wait_for_function(OPEN)
        # cells out of view are made when the browser has time; make them all
        page.evaluate("() => { const book = jupyterapp.shell.currentWidget.content; book.notebookConfig = {...book.notebookConfig, windowingMode: 'none'}; }")
        return page
    yield opened
    context.close()

def run_all(page, seconds=600):
    "Run every cell and wait for the last one."
    page.wait_for_function(READY)
    page.evaluate("() => { window.ended = null; jupyterapp.commands.execute('notebook:run-all-cells').then(() => { window.ended = true; }); }")
    page.wait_for_function("window.ended !== null", timeout=1000 * seconds)
    page.wait_for_function(IDLE, timeout=600_000)
    faults = page.locator(FAULTS)
    assert not faults.count(), faults.first.inner_text()[-1500:]

def test_stored_pictures_are_seen_untrusted(notebook):
    page = notebook("1_method/8_show.ipynb")
    page.get_by_text("Advantages: perception above, reasoning below.").first.wait_for(state="attached")
    stored = json.loads((ROOT / "nbs/1_method/8_show.ipynb").read_text())["cells"]
    pictures = sum("".join(o.get("data", {}).get("text/html", "")).split("<script")[0].count("<img") for c in stored for o in c.get("outputs", []))
    page.wait_for_function(f"document.querySelectorAll('.jp-OutputArea-output img').length >= {pictures}")
    assert pictures > 3 and not page.locator(".vp-live").count() # no script of a notebook that nobody trusts
    assert not page.eval_on_selector_all(".jp-OutputArea-output img", "all => all.filter(i => !i.complete || !i.naturalWidth || !i.alt).length")
    shot(page, "show_untrusted")

def test_group_is_explored_in_the_lab(notebook):
    page = notebook("1_method/8_show.ipynb")
    run_all(page)
    assert page.locator(".vp-live [data-preset]").count() == 5 # trusted by being run
    page.click(".vp-live [data-preset=grpo]")
    assert "Praised" in page.inner_text(".vp-live .said")
    box = page.locator(".jp-OutputArea-output .widget-vbox").last
    view = box.locator(".widget-html").last
    handle = box.locator(".noUi-handle")
    assert "Rollout 1 of 4" in view.inner_text()
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("e => e.innerText.includes('Rollout 3 of 4')", arg=view.element_handle())
    for name in ("advantages", "processes", "masks"): # each alone changes the picture
        before = view.inner_html()
        box.locator(".widget-checkbox", has_text=name).locator("input").uncheck()
        page.wait_for_function("([e, before]) => e.innerHTML !== before", arg=[view.element_handle(), before])
    box.locator("select").select_option(label="as in GRPO")
    page.wait_for_function("e => e.innerText.includes('credited as in GRPO')", arg=view.element_handle())
    shot(page, "show_lab")
    page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
    page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
    assert background(page) != "rgb(255, 255, 255)"
    shot(page, "show_lab_dark")

def test_run_all_of_a_fast_one(notebook):
    for name in FAST[1:]: run_all(notebook(name))

@storm
@pytest.mark.parametrize("name", REST)
def test_run_all_of_every_notebook(notebook, name):
    run_all(notebook(name), 600)

@storm
@pytest.mark.parametrize("name", ["tools/plan.ipynb", "tools/browse.ipynb", "tools/explore.ipynb", "engine/quiz.ipynb"])
def test_each_widget_moves(notebook, name):
    page = notebook(name)
    run_all(page, 600)
    box = page.locator(".jp-OutputArea-output .widget-vbox").last
    before = box.inner_html()
    if name == "engine/quiz.ipynb":
        first = next(iter(read_records(samples() / "heldout.jsonl")))
        box.locator("textarea").fill(gold_observation(from_record(first)))
    else:
        menu = box.locator("select").first
        menu.select_option(index=1)
    page.wait_for_function("([e, before]) => e.innerHTML !== before", arg=[box.element_handle(), before])
