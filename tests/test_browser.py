"The viewer of a group works in JupyterLab: run all cells, move the slider, switch a layer off."
import os, shutil, socket, subprocess, sys, time, urllib.request
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT/'nbs'/'1_method'/'8_show.ipynb'
selenium = pytest.importorskip('selenium', reason='selenium is not installed')
pytest.importorskip('jupyterlab', reason='JupyterLab is not installed')
CHROME, DRIVER = (next(filter(None, map(shutil.which, names)), None) for names in (('chromium', 'chromium-browser', 'google-chrome'), ('chromedriver',)))
pytestmark = pytest.mark.skipif(not (CHROME and DRIVER), reason='no Chromium with its driver')

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
         '--disable-component-update', '--disable-sync', '--window-size=1300,1700']


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    "The address of a JupyterLab that serves a copy of the notebook"
    work = tmp_path_factory.mktemp('lab')
    shutil.copy(NOTEBOOK, work)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = os.environ | dict(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]), OMP_NUM_THREADS='1',
                            JUPYTER_CONFIG_DIR=str(work/'config'), JUPYTER_DATA_DIR=str(work/'data'), IPYTHONDIR=str(work/'ipython'))
    args = ['--no-browser', '--allow-root', f'--port={port}', '--ServerApp.port_retries=0', '--ServerApp.token=', f'--ServerApp.root_dir={work}', '--expose-app-in-browser']
    with open(work/'lab.log', 'w') as log:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *args], cwd=work, env=env, stdout=log, stderr=log)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(120):
            try: urllib.request.urlopen(f'{url}/api', timeout=2); break
            except OSError: time.sleep(.5)
            assert server.poll() is None, (work/'lab.log').read_text()
        yield url
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROME
    for f in FLAGS + [f'--user-data-dir={tmp_path_factory.mktemp("profile")}']: options.add_argument(f)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    yield driver
    driver.quit()


def shot(browser, name):
    "A picture where SHOTS names a folder"
    if folder := os.environ.get('SHOTS'): browser.save_screenshot(f'{folder}/{name}.png')


def test_slider_moves_over_the_group(lab, browser):
    wait = WebDriverWait(browser, 120)
    live = lambda d: d.find_elements(By.CSS_SELECTOR, '.jp-OutputArea-output .widget-vbox, .jp-OutputArea-output .jupyter-widgets.widget-vbox')
    browser.get(f'{lab}/lab/tree/{NOTEBOOK.name}?reset')
    wait.until(lambda d: d.execute_script('return !!(window.jupyterapp && jupyterapp.shell.currentWidget && document.querySelector(".jp-Notebook .jp-Cell"))'))
    wait.until(lambda d: d.execute_script('const c = jupyterapp.shell.currentWidget.sessionContext; return !!c && c.isReady && !!c.session'))
    browser.execute_script('jupyterapp.commands.execute("notebook:run-all-cells")')
    wait.until(live)
    box = live(browser)[-1]
    wait.until(lambda d: 'Rollout 1 of 4' in box.text)
    browser.execute_script('arguments[0].scrollIntoView({block: "start"})', box)
    shot(browser, 'show_1')

    handle = box.find_element(By.CSS_SELECTOR, '.noUi-handle')
    handle.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    wait.until(lambda d: 'Rollout 3 of 4' in box.text)
    colours = [t.value_of_css_property('background-color') for t in box.find_elements(By.CSS_SELECTOR, 'span[title^="perception"], span[title^="reasoning"]')]
    assert len(set(colours)) == 2, 'one shade per process'
    shot(browser, 'show_3')

    assert box.find_elements(By.CSS_SELECTOR, '[aria-label="masks"]')
    next(b for b in box.find_elements(By.CSS_SELECTOR, '.widget-checkbox') if 'masks' in b.text).find_element(By.TAG_NAME, 'input').click()
    wait.until(lambda d: not box.find_elements(By.CSS_SELECTOR, '[aria-label="masks"]'))
    errors = browser.find_elements(By.CSS_SELECTOR, '[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]')
    assert not errors, errors[0].text
