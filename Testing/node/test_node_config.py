"""The configuration of a node: what is taken, what is refused and how, which rule decides."""

from __future__ import annotations

import pytest
from dicom_fixtures import make_ct_series
from pydicom import dcmread

from ASCONDenoiseLib.errors import InputError
from ASCONDenoiseLib.node.config import TEMPLATE, Listen, Rule, read_config
from ASCONDenoiseLib.node.facts import SeriesFacts, choose, facts_of, fits

FACTS = {
    "modality": "CT",
    "body_part": "ABDOMEN",
    "kernel": "B30f",
    "slice_thickness_mm": "2.5",
    "series_description": "Abdomen 2.5 mm",
}


def test_the_template_is_a_configuration_as_it_stands(tmp_path):
    (tmp_path / "node.toml").write_text(TEMPLATE)
    config = read_config(tmp_path / "node.toml")
    assert config.storage.folder == tmp_path / "node-data"
    assert [one.name for one in config.destinations] == ["pacs"]
    assert config.rules[1].strength == 0.9 and config.rules[1].thickness_mm == (1.25, 3.0)


def test_what_the_template_calls_defaults_are_the_defaults(tmp_path):
    """Every line that begins with # and a key, put to use, changes nothing."""
    lines = TEMPLATE.splitlines()
    keep = (
        "[listen.tls]",
        "[destinations.tls]",
        "certificate",
        "key",
        "authority",
        "client_certificate",
        "model",
        "send_to",
    )
    used = [
        line[2:] if line.startswith("# ") and " = " in line and not line[2:].startswith(keep) else line
        for line in lines
    ]
    assert sum(a != b for a, b in zip(lines, used, strict=True)) >= 14
    (tmp_path / "a.toml").write_text(TEMPLATE)
    (tmp_path / "b.toml").write_text("\n".join(used))
    assert read_config(tmp_path / "a.toml") == read_config(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("port = 104", 'port = "104"', "destinations.port is '104', where a port, 1 to 65535 is needed"),
        ("port = 104", "port = 99999", "destinations.port is 99999"),
        ('ae_title = "PACS"', 'ae_title = "A TITLE THAT IS TOO LONG"', "1 to 16 characters"),
        ("strength = 0.9", "strength = 7", "rules.strength is 7, where a number from 0 to 1"),
        ('folder = "node-data"', "", "lacks storage.folder: a path"),
        ('callers = ["CT_SCANNER", "PACS*"]', "", "lacks listen.callers"),
        ('"192.168.4.0/24"]', '"192.168.4/2x"]', "networks"),
        ("[1.25, 3.0]", "[3.0, 1.25]", "two numbers, the smaller first"),
        ('# send_to = ["pacs"]', 'send_to = ["archive"]', "rules.send_to is 'archive', where one of pacs is needed"),
        ("leave_alone = true", "leave_alon = true", "has rules.leave_alon, which is unknown"),
        ("[listen]", "[listen", "is no valid TOML"),
    ],
)
def test_errors_name_file_place_and_remedy(tmp_path, old, new, words):
    file = tmp_path / "node.toml"
    assert old in TEMPLATE
    file.write_text(TEMPLATE.replace(old, new, 1))
    with pytest.raises(InputError) as error:
        read_config(file)
    assert str(file) in str(error.value) and words in str(error.value)


def test_a_configuration_that_is_not_there_is_no_riddle(tmp_path):
    with pytest.raises(InputError, match="ascon node init"):
        read_config(tmp_path / "none.toml")


def test_who_is_let_in():
    listen = Listen(callers=("CT_*", "PACS"), networks=("192.168.4.0/24", "::1/128"))
    assert listen.lets_in("192.168.4.7") and listen.lets_in("::ffff:192.168.4.7") and listen.lets_in("::1")
    assert not listen.lets_in("192.168.5.7") and not listen.lets_in("somewhere")
    assert listen.knows("CT_1 ") and listen.knows("PACS") and not listen.knows("PACS2") and not listen.knows("ct_1")


@pytest.mark.parametrize(
    ("rule", "fitting"),
    [
        ({}, True),
        ({"modality": "MR"}, False),
        ({"body_part": "*abdo*"}, True),
        ({"kernel": "B3*"}, True),
        ({"kernel": "B4*"}, False),
        ({"description": "*2.5 mm"}, True),
        ({"description": "Abdomen"}, False),
        ({"sender": "SCAN?ER"}, True),
        ({"sender": "PACS"}, False),
        ({"thickness_mm": (0.5, 2.5)}, True),
        ({"thickness_mm": (0.5, 2.0)}, False),
        ({"kernel": "B3*", "sender": "PACS"}, False),
    ],
)
def test_a_rule_fits_where_all_that_it_names_does(rule, fitting):
    assert fits(Rule(**rule), SeriesFacts("SCANNER", FACTS, True, False)) is fitting


def test_what_a_series_does_not_tell_fits_nothing_but_everything():
    unknown = SeriesFacts("SCANNER", {"modality": "CT"}, True, False)
    assert fits(Rule(), unknown)
    assert not fits(Rule(kernel="B*"), unknown) and not fits(Rule(thickness_mm=(0, 100)), unknown)


def test_the_first_rule_decides():
    rules = (Rule(name="a", kernel="X"), Rule(name="b"), Rule(name="c"))
    facts = SeriesFacts("SCANNER", FACTS, True, False)
    assert choose(rules, facts) == rules[1] and choose(rules[:1], facts) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"series_description": "Abdomen ClariCT"}, "denoised already"),
        ({"series_description": "x DENOISED"}, "denoised already"),
        ({"modality": "MR"}, "slice of a CT (modality MR)"),
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "slice of a CT"),
    ],
)
def test_what_no_rule_may_touch(tmp_path, changes, words):
    file = make_ct_series(tmp_path, shape=(1, 8, 8), **changes)[0]
    reason = facts_of(dcmread(file), "SCANNER").why_never()
    assert words in reason and bool(words) == bool(reason)
