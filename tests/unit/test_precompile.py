"""The helper of a first start compiles what the engine needs: from a frame like the decoder's."""

from __future__ import annotations

import subprocess
import sys

from flows import precompile
from flows.families import part_builder
from flows.settings import Settings


def test_its_frame_is_like_the_decoder_s() -> None:
    made, decoded = precompile.invented(1_795_720_000_000), part_builder(Settings()).example(1_795_720_000_000)
    assert made.schema == decoded.schema
    hashes = ["user_hash", "id_hash", "offset"]
    assert made.drop(hashes).to_dicts() == decoded.drop(hashes).to_dicts()


def test_the_decoder_s_frame_is_there_whatever_platforms_are_left_out() -> None:
    """An engine with `filter_platforms` once ended at its start: all of the frame's events were filtered."""
    builder = part_builder(Settings.model_validate({"filter_platforms": ["kuaishou", '100%d "x"']}))
    assert builder.example(1_795_720_000_000)["platform"].unique().to_list() == ['100%d "x"']


def test_what_is_compiled_needs_no_helper() -> None:
    assert precompile.main("rest") == precompile.main("funnel") == precompile.main("decode") == 0
    assert precompile.start() == []


def test_a_start_does_not_import_pandas() -> None:
    """It is there for chDB; `pyarrow.array` imports it in passing, for half a second and 45 MB of each engine."""
    folded = "[precompile.main(part) for part in ('rest', 'funnel', 'decode')]"
    told = f"print({folded}, *(name in sys.modules for name in ('numba', 'pandas')))"
    start = f"import sys; from flows import engine, precompile; {told}"
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "[0, 0, 0] True False", done.stdout
