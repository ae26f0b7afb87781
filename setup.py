"""Give setuptools every field that pyproject.toml calls dynamic, from settings.ini alone."""
from configparser import ConfigParser
from setuptools import setup

config = ConfigParser(delimiters=["="], interpolation=None)
config.read("settings.ini", encoding="utf-8")
s = config["DEFAULT"]
lines = lambda key: [x.strip() for x in s[key].strip().splitlines() if x.strip()]

setup(
    name=s["lib_name"],
    version=s["version"],
    description=s["description"],
    author=s["author"],
    license_expression=s["license"],
    python_requires=f">={s['min_python']}",
    keywords=lines("keywords"),
    classifiers=lines("classifiers"),
    packages=[s["lib_name"], *(f"{s['lib_name']}.{part}" for part in ("engine", "tools"))],
    install_requires=lines("requirements"),
    extras_require={k.removesuffix("_requirements"): lines(k) for k in s if k.endswith("_requirements")},
    entry_points={
        "console_scripts": lines("console_scripts"), "nbdev": [f"{s['lib_name']}={s['lib_name']}._modidx:d"],
        "lmms_eval.models": lines("lmms_models")},
)
