"""The helper of a first start compiles what the engine needs: from a frame like the decoder's."""

from __future__ import annotations

from flows import precompile
from flows.families import part_builder
from flows.settings import Settings


def test_its_frame_is_like_the_decoder_s() -> None:
    made, decoded = precompile.invented(1_795_720_000_000), part_builder(Settings()).example(1_795_720_000_000)
    assert made.schema == decoded.schema
    hashes = ["user_hash", "id_hash", "offset"]
    assert made.drop(hashes).to_dicts() == decoded.drop(hashes).to_dicts()


def test_what_is_compiled_needs_no_helper() -> None:
    assert precompile.main("rest") == precompile.main("funnel") == precompile.main("decode") == 0
    assert precompile.start() == []
