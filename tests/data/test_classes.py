"""Classes of a data set are found among the outputs of a network by name, and nothing is guessed."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_jax.data.classes import are_numbers, match_classes, read_class_names
from resnet_jax.errors import DataError, UsageError

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NUMBERS = [str(n) for n in range(12)]


def test_equal_lists_need_no_word():
    matching = match_classes(CIFAR, CIFAR)
    assert matching.outputs.tolist() == list(range(10))
    assert matching.said == ()


def test_the_same_names_in_another_order_are_permuted():
    theirs = ["truck", "cat", *[name for name in CIFAR if name not in ("truck", "cat")]]
    matching = match_classes(theirs, CIFAR)
    assert [CIFAR[output] for output in matching.outputs] == theirs
    np.testing.assert_array_equal(matching.labels(np.array([1, 0, 1])), [3, 9, 3])
    assert "matched by name" in matching.said[0]


def test_folders_sorted_as_text_are_the_numbers_that_they_say():
    """0, 1, 10, 11, 2 by position scored 9 % instead of 77 %."""
    theirs = sorted(NUMBERS)
    assert match_classes(theirs, NUMBERS).outputs.tolist() == [int(name) for name in theirs]
    padded = [f"{n:03}" for n in range(12)]
    assert match_classes(padded, NUMBERS).outputs.tolist() == list(range(12))
    assert match_classes(NUMBERS, theirs).outputs.tolist() == [theirs.index(name) for name in NUMBERS]


def test_numbers_are_outputs_counted_from_0_where_the_network_has_names_and_are_spelt_out():
    matching = match_classes(["8", "3", "05"], CIFAR)
    assert matching.outputs.tolist() == [8, 3, 5]
    assert "8 is ship, 3 is cat, 05 is dog" in matching.said[0]
    assert matching.said[1].startswith("3 of the network's 10 classes")


def test_a_part_of_the_classes_is_said_to_be_one():
    matching = match_classes(["cat", "dog", "ship"], CIFAR)
    assert matching.outputs.tolist() == [3, 5, 8]
    assert matching.said == (
        "3 of the network's 10 classes: cat, dog, ship; an image is correct if its class is the likeliest of all 10",
    )
    named_but_without_images = match_classes(CIFAR, CIFAR, present=[3, 5])
    assert named_but_without_images.said[0].startswith("2 of the network's 10 classes: cat, dog")


def test_a_class_without_images_need_not_be_known():
    assert match_classes(["cat", "unicorn", "dog"], CIFAR, present=[0, 2]).outputs.tolist() == [3, -1, 5]


def test_a_background_class_in_front_is_left_alone():
    outputs = [str(n) for n in range(6)]  # 5 classes and a background, imported without names
    assert match_classes(["1", "2", "3", "4", "5"], outputs).outputs.tolist() == [1, 2, 3, 4, 5]
    named = ["background", *CIFAR]
    assert match_classes(CIFAR, named).outputs.tolist() == list(range(1, 11))
    assert match_classes(["1", "2"], named).outputs.tolist() == [1, 2]
    with pytest.raises(UsageError, match="output 0 is the background"):
        match_classes([str(n) for n in range(10)], named)


def test_counted_from_1_is_ambiguous_where_there_are_as_many_outputs():
    from_one = sorted(str(n) for n in range(1, 11))
    for ours in (CIFAR, NUMBERS[:10]):
        with pytest.raises(UsageError, match="whether class 1 is the first output or the second is not known"):
            match_classes(from_one, ours)
    assert match_classes(from_one, [str(n) for n in range(1, 11)]).outputs.tolist() == [int(n) - 1 for n in from_one]


@pytest.mark.parametrize(
    ("theirs", "ours", "message"),
    [
        (["cat", "dgo"], CIFAR, "no class 'dgo' .nearest: 'dog'."),
        ([name.upper() for name in CIFAR], CIFAR, "nearest: 'airplane'.* and 9 more"),
        (["traffic_light", "cat"], ["traffic light", "cat"], "no class 'traffic_light' .nearest: 'traffic light'."),
        ([" cat", "dog"], CIFAR, "no class ' cat' .nearest: 'cat'."),
        (CIFAR, NUMBERS[:10], "by number only.*class_names=FILE"),
        (CIFAR[:3], NUMBERS[:10], "by number only"),
        (["0", "1", "12"], NUMBERS, "12 cannot be matched by number"),
        (["0", "cat"], CIFAR, "no class '0'"),
        (["3", "03"], NUMBERS, "several classes of one name .3, 03."),
        (["cat", "cat"], CIFAR, "several classes of one name"),
        (["crane", "owl"], ["crane", "owl", "crane"], "2 outputs called 'crane' .0, 2."),
        (["0", "1"], ["1", "2"], "0 cannot be matched"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_both_sides(theirs, ours, message):
    with pytest.raises(UsageError, match=message) as error:
        match_classes(theirs, ours, source="folder:x", network="net")
    assert "folder:x" in str(error.value) or "net" in str(error.value)


def test_names_that_two_outputs_share_matter_only_where_they_are_needed():
    ours = ["crane", "owl", "crane", "emu"]  # as in ImageNet's words
    assert match_classes(["emu", "owl"], ours).outputs.tolist() == [3, 1]
    assert match_classes(ours, ours).outputs.tolist() == [0, 1, 2, 3]


def test_equal_text_of_another_unicode_form_is_equal():
    assert match_classes(["cafe\u0301", "the"], ["caf\u00e9", "the"]).said == ()


def test_names_from_a_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text("cat\ntraffic light \r\ndog\n\n\n", encoding="utf-8-sig")
    assert read_class_names(file, 3) == ("cat", "traffic light", "dog")
    file.write_text('["cat", "dog"]')
    assert read_class_names(file, 2) == ("cat", "dog")
    assert read_class_names(file, 1) == ("cat", "dog")  # no and yes
    with pytest.raises(UsageError, match="2 names, the network 3 outputs"):
        read_class_names(file, 3)
    file.write_text("cat\n\ndog\n")
    with pytest.raises(UsageError, match="no name for output 1"):
        read_class_names(file, 3)
    for text in ('{"1": "dog", "0": "cat"}', '{"dog": 1, "cat": 0}'):  # id2label, class_to_idx
        file.write_text(text)
        assert read_class_names(file, 2) == ("cat", "dog")
    file.write_text('{"dog": 1, "cat": 2}')
    with pytest.raises(DataError, match="not one of output to name or name to output for the outputs 0 to 1"):
        read_class_names(file, 2)
    file.write_text("cat\ndog", encoding="utf-16")
    with pytest.raises(DataError, match="it is not text in UTF-8"):
        read_class_names(file, 2)
    file.write_text("[1, 2]")
    with pytest.raises(DataError, match="class names are strings"):
        read_class_names(file, 2)
    with pytest.raises(DataError, match="cannot read the class names"):
        read_class_names(tmp_path / "nowhere.txt", 2)


def test_a_first_output_that_may_be_a_background_is_said():
    """Classes 0..K-1 for a network of K + 1 outputs without names: output 0 may be a background."""
    matching = match_classes([str(n) for n in range(11)], NUMBERS)
    assert matching.outputs.tolist() == list(range(11))
    assert "if its first is a background, class 0 is output 1" in matching.said[-1]
    assert not any("background" in said for said in match_classes(NUMBERS[:4], NUMBERS).said)
    assert match_classes(NUMBERS, NUMBERS).said == ()


def test_names_that_say_no_more_than_a_position():
    assert are_numbers(NUMBERS)
    assert not are_numbers(sorted(NUMBERS))
    assert not are_numbers(CIFAR)
