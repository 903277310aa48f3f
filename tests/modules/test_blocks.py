"""Blocks: bottom to top, as the programs themselves run; every image architecture is held to that in networks/test_image.py."""

import pytest
from small_modules import golden_facts, in_order_of_use

from hubflow.modules.module import build_graph, module_block_of, module_blocks
from hubflow.modules.networks import image
from hubflow.modules.networks.text import FAMILIES, TextConfig
from hubflow.modules.weights import image_block_of, image_blocks, text_block_of, text_blocks

TEXT_CASES = {"bert", "ernie_task", "roberta", "xlm_roberta", "electra", "distilbert", "bert_no_pooler"}


@pytest.mark.parametrize("case", sorted(TEXT_CASES))
def test_blocks_of_every_text_architecture_are_run_bottom_to_top(case: str) -> None:
    facts = golden_facts(case)
    has_pooler = any("pooler" in name for name in facts["tensors"])
    config = TextConfig.from_hugging_face(facts["config"], has_pooler)
    graph = build_graph(config)
    found = in_order_of_use(graph.program, {name: module_block_of(config, name) for name in graph.parameters})
    assert found == module_blocks(config) == ("embeddings", *(f"encoder.{layer}" for layer in range(config.num_layers)))


def test_every_text_family_is_among_the_cases() -> None:
    assert {golden_facts(case)["config"]["model_type"] for case in TEXT_CASES} >= FAMILIES.keys() - {"camembert"}


def test_the_pooler_belongs_to_the_last_encoder_block_and_ten_is_not_one() -> None:
    assert text_blocks(2) == ("embeddings", "encoder.0", "encoder.1")
    found = [text_block_of(name, 12) for name in ("pooler.weight", "encoder.1.ffn.norm.bias", "encoder.10.ffn.norm.bias")]
    assert found == ["encoder.11", "encoder.1", "encoder.10"]


def test_what_closes_a_stage_is_part_of_it_and_a_last_convolution_stands_alone() -> None:
    assert image_block_of("tr_conv3_blk.conv_ac_func._conv.weight") == "db_conv_3"
    assert image_blocks(["features.0.0.weight", "features.1.conv.weight", "features.18.0.weight"]) == (
        "stem",
        "features.1",
        "features.18",
    )
    assert image_blocks(image.architecture_tensors("mobilenet_v3_small"))[-1] == "lastconv"
    assert image_blocks(image.architecture_tensors("resnet18")) == ("stem", "layer1", "layer2", "layer3", "layer4")
    assert image_blocks(image.architecture_tensors("digits_cnn")) == ("block1", "block2", "block3")
