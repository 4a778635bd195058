import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scaling():
    spec = importlib.util.spec_from_file_location("scaling", ROOT / "benchmarks" / "scaling.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_was_measured_is_drawn_and_listed(scaling, tmp_path, monkeypatch, capsys):
    asked, places = [], []

    def save_bench(command, env, **_):
        """Stands for the bench: a rate that says which process it is of."""
        asked.append(command)
        places.append(env)
        flags = dict(flag.lstrip("-").split("=") for flag in command if "=" in flag)
        settings = [{"batch_clips": 8, "devices": d} for d in (1, 2)]
        rows = [
            {"setting": s, "variant": v, "status": "ok" if s == 0 or v == "train" else "out of memory",
             "clips_per_second": {"p25": 900, "p50": 1000 + int(flags.get("config.bench.clips", 0)), "p75": 99_999}}
            for s in range(flags.get("config.bench.devices", "").count(", ") + 1) for v in ("train", "eval")
        ]  # fmt: skip
        folder = Path(command[command.index("--workdir") + 1])
        folder.mkdir(parents=True)
        environment = {"devices": "1 x cpu", "processors": "2", "jax": "0"}
        (folder / "bench.json").write_text(
            json.dumps({"rows": rows, "settings": settings, "environment": environment, "load": [0.4, 2.6]})
        )
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(scaling.subprocess, "run", save_bench)
    figure = tmp_path / "scaling.svg"
    flags = ["scaling.py", "--out", str(tmp_path / "out"), "--figure", str(figure), "--devices", "1", "2"]
    monkeypatch.setattr(scaling.sys, "argv", flags)
    scaling.main()
    printed = capsys.readouterr().out
    assert "| clips of the corpus | 5,000 | 6,000 (900 to 99,999) |" in printed
    assert "| devices (fake ones that share the cores) | 2 | 3,048 (900 to 99,999) |  |" in printed
    texts = [element.text for element in ElementTree.parse(figure).iter("{http://www.w3.org/2000/svg}text")]
    for title, label, *_ in scaling.STUDIES.values():
        assert {title, label} <= set(texts)
    assert "1 x cpu, 2; JAX 0; 0 to 3 processes wanted to run" in texts
    assert any("--config.bench.devices=(1, 2)" in command for command in asked)
    for model in scaling.MODELS:
        assert f"one device, in a process that has no other: {model}: train 3,048, eval 3,048 clips/s" in printed
    alone = [
        place["XLA_FLAGS"] for command, place in zip(asked, places, strict=True) if "devices=(1,)" in str(command)
    ]
    assert [flags.split("=")[-1] for flags in alone] == ["1"] * len(scaling.MODELS)
    number = len(asked)
    scaling.main()
    assert len(asked) == number  # nothing is measured twice


def test_the_flags_are_possible(scaling):
    from mgc_jax.config.checks import validate

    for model, (_, file, *flags) in scaling.MODELS.items():
        name, _, argument = file.partition(":")
        spec = importlib.util.spec_from_file_location("config", ROOT / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for *_, processes, _ in scaling.STUDIES.values():
            for _, more in processes:
                config = module.get_config(argument) if argument else module.get_config()
                for flag in [*flags, *scaling.COMMON[2:], *more]:
                    key, _, value = flag.removeprefix("--config.").partition("=")
                    value = value if key == "data.corpus" else eval(value.replace("{devices}", "(1, 2)"))
                    config.update_from_flattened_dict({key: value})
                validate(config)
                assert config.batch.clips >= config.bench.bag_length, model
