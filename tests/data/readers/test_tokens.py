"""CoNLL and its kin: comments, columns by position and name, tabs, CoNLL-U; and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from hubflow.data.readers.chunks import Chunk
from hubflow.data.readers.reading import iter_rows
from hubflow.errors import DataError
from hubflow.schemas.settings import DatasetSpec

CONLLU = """\
# newdoc
# sent_id = 1
# text = Vámonos al mar.
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\tSpaceAfter=No
2.1\tX\t_\t_\t_\t_\t_\t_\t_\t_
3\tNew York\tNew York\tPROPN\t_\t_\t1\tobl\t_\t_

# sent_id = 2
# text = # O
1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_
2\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\t_
"""


def chunks(path: Path, content: str | bytes, labelled: bool = True, chunk_rows: int = 1000, **options: Any) -> list[Chunk]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    spec = DatasetSpec.model_validate({"format": "conll", "train": str(path), **options})
    return list(iter_rows(spec, path, "train", "sequence_labelling", labelled, chunk_rows))


def read(path: Path, content: str | bytes, labelled: bool = True, **options: Any) -> list[tuple[int, list[str], list[str]]]:
    """Row, tokens and labels of each sentence; nothing is malformed."""
    found = []
    for chunk in chunks(path, content, labelled, **options):
        assert chunk.malformed.empty, chunk.malformed.to_dict("records")
        labels = chunk.rows["labels"] if "labels" in chunk.rows else [[]] * len(chunk.rows)
        found += list(zip(chunk.rows["row"].tolist(), chunk.rows["tokens"], labels, strict=True))
    return found


def skipped(path: Path, content: str | bytes, **options: Any) -> dict[str, int]:
    """How many lines were skipped, by reason."""
    counts: dict[str, int] = {}
    for chunk in chunks(path, content, **options):
        for reason, count in chunk.skipped.items():
            counts[reason] = counts.get(reason, 0) + count
    return counts


def test_comment_lines_of_the_shared_case_are_skipped_and_counted(shared_case: Callable[[str], Path], tmp_path: Path) -> None:
    content = (shared_case("comment-lines") / "train.conll").read_text(encoding="utf-8")
    rows = read(tmp_path / "a.conll", content)
    assert rows[0][1:] == (["beijing", "is", "film0"], ["B-LOC", "O", "O"])
    assert {label for row in rows for label in row[2]} == {"B-LOC", "O"}
    assert skipped(tmp_path / "a.conll", content) == {"comment lines": len(rows)}


@pytest.mark.parametrize("line", ["# O", "#\tO", "#hashtag O", "#hashtag\tO", "# B-PRODUCT", "# X-TAG"])
def test_a_token_that_begins_a_sentence_with_a_hash_stays_one(line: str, tmp_path: Path) -> None:
    content = f"# id 1\tdomain=train\n{line}\nfilm O\n\nsome X-TAG\n# O\n"
    rows = read(tmp_path / "a.conll", content)
    token, tag = line.split()
    assert rows == [(2, [token, "film"], [tag, "O"]), (5, ["some", "#"], ["X-TAG", "O"])]
    assert skipped(tmp_path / "a.conll", content) == {"comment lines": 1}


@pytest.mark.parametrize(
    "comment",
    [
        "# newdoc",
        "# id 12",
        "# sent_id = 12",
        "# text = film O",
        "#",
        "#begin document (bc/cctv); part 000",
        "#id=1",
        "# a\tb\tc",
    ],
)
@pytest.mark.parametrize("columns", [2, 3, 4, 5])
def test_comments_are_told_from_tokens_whatever_the_number_of_columns(comment: str, columns: int, tmp_path: Path) -> None:
    token = " ".join(["film", *["_"] * (columns - 2), "O"])
    content = f"{comment}\n\n{comment}\n{token}\n# {token.removeprefix('film ')}\n\n{token}\n\n{comment}\n"
    assert read(tmp_path / "a.conll", content) == [(4, ["film", "#"], ["O", "O"]), (7, ["film"], ["O"])]
    assert skipped(tmp_path / "a.conll", content) == {"comment lines": 3}


def test_a_line_that_lacks_its_tag_inside_a_sentence_is_no_comment(tmp_path: Path) -> None:
    found = chunks(tmp_path / "a.conll", "a _ O\n# O\n\nb _ O\n")
    assert found[0].malformed["row"].tolist() == [1]
    assert "line 2 has 2" in found[0].malformed["found"].iloc[0]


def test_tokens_alone_may_be_hashes(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.conll", "# sent_id = 1\n#\n#tag\nfilm\n", labelled=False)
    assert rows == [(2, ["#", "#tag", "film"], [])]


def test_conllu_gives_its_words_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.conllu"
    expected = [
        (5, ["Vamos", "nos", "New York"], ["VERB", "PRON", "PROPN"]),
        (12, ["#", "mar"], ["SYM", "NOUN"]),
    ]
    for options in (
        {"label_column": "UPOS"},
        {"tokens_column": "form", "label_column": 3},
        {"tokens_column": 1, "label_column": -7},
    ):
        assert read(path, CONLLU, **options) == expected
    lemmas = read(path, CONLLU, tokens_column="LEMMA", label_column="DEPREL")
    assert lemmas[0][1:] == (["ir", "nosotros", "New York"], ["root", "obj", "obl"])
    assert skipped(path, CONLLU, label_column="UPOS") == {"comment lines": 5, "multi-word tokens": 1, "empty nodes": 1}
    assert read(path, CONLLU, labelled=False) == [(row, tokens, []) for row, tokens, _ in expected]
    with pytest.raises(DataError, match="set label_column to that of the tags, for example UPOS"):
        chunks(path, CONLLU)


def test_conllu_plus_names_its_columns(tmp_path: Path) -> None:
    content = "# global.columns = ID FORM NER NOTE\n# sent_id = 1\n1\tRio\tB-LOC\t_\n2-3\tdel\t_\t_\n2\tde\tO\tx\n3\tel\tO\t_\n"
    path = tmp_path / "a.conllup"
    assert read(path, content, label_column="NER") == [(3, ["Rio", "de", "el"], ["B-LOC", "O", "O"])]
    assert read(path, content)[0][2] == ["_", "x", "_"]
    with pytest.raises(DataError, match=r"label_column is 'TAG', .* 4 column\(s\), ID, FORM, NER, NOTE,"):
        chunks(path, content, label_column="TAG")
    with pytest.raises(DataError, match="names 4 columns, but line 2 has 3"):
        chunks(path, "# global.columns = ID FORM NER NOTE\n1\tRio\tO\n", label_column="NER")


@pytest.mark.parametrize("blank", [" ", "\t"])
def test_indexed_files_are_read_by_position(blank: str, tmp_path: Path) -> None:
    content = "1 beijing _ B-LOC\n2 is _ O\n\n1 film _ O\n".replace(" ", blank)
    path = tmp_path / "a.conll"
    expected = [(1, ["beijing", "is"], ["B-LOC", "O"]), (4, ["film"], ["O"])]
    for options in ({"tokens_column": 1}, {"tokens_column": -3, "label_column": -1}, {"tokens_column": 1, "label_column": 3}):
        assert read(path, content, **options) == expected
    assert read(path, "B-LOC beijing\nO is\n", tokens_column=1) == [(1, ["beijing", "is"], ["B-LOC", "O"])]
    assert read(path, "1 beijing\n2 is\n", labelled=False, tokens_column=1) == [(1, ["beijing", "is"], [])]
    with pytest.raises(DataError, match="tokens_column is 4"):
        chunks(path, content, tokens_column=4)
    with pytest.raises(DataError, match=r"tokens_column is 'FORM'.*no line `# global\.columns"):
        chunks(path, content, tokens_column="FORM")


def test_dates_in_the_first_column_are_no_multi_word_tokens(tmp_path: Path) -> None:
    rows = read(tmp_path / "a.conll", "1999-2000 film O\n3.5 plot O\n2 cast O\n", tokens_column=1)
    assert rows == [(1, ["film", "plot", "cast"], ["O", "O", "O"])]


def test_a_tab_is_the_only_separator_of_a_line_that_has_one(tmp_path: Path) -> None:
    assert read(tmp_path / "a.conll", "New York\tB-LOC\n1 000 000\tO\nfilm O\n") == [
        (1, ["New York", "1 000 000", "film"], ["B-LOC", "O", "O"])
    ]
    aligned = "a\t\tO\nlonger word\tB-X\nb\t\t\tO\n"
    assert read(tmp_path / "b.conll", aligned) == [(1, ["a", "longer word", "b"], ["O", "B-X", "O"])]
    empty = "a\tNN\tO\nb\t\tO\nc\tNN\tO\n"
    assert read(tmp_path / "c.conll", empty)[0][2] == ["O", "O", "O"]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n \t\n"])
def test_marks_line_ends_and_blanks_do_not_matter(end: str, mark: str, last: str, tmp_path: Path) -> None:
    lines = ["-DOCSTART- -X- O", "", "# id 7", "film NN O  ", "of IN O\t", " \t ", "-DOCSTART- -X- O", "\u3000", "plot NN B-X"]
    content = mark + ("\n".join(lines) + last).replace("\n", end)
    assert read(tmp_path / "a.conll", content) == [(4, ["film", "of"], ["O", "O"]), (9, ["plot"], ["B-X"])]
    assert skipped(tmp_path / "a.conll", content) == {"-DOCSTART- lines": 2, "comment lines": 1}


def test_what_is_skipped_is_counted_once_whatever_the_size_of_the_chunks(tmp_path: Path) -> None:
    content = "".join(f"# id {place}\nfilm O\n\n" for place in range(7)) + "# the end\n"
    for size in (1, 3, 100):
        found = chunks(tmp_path / "a.conll", content, chunk_rows=size)
        assert sum(len(chunk.rows) for chunk in found) == 7
        assert sum(chunk.skipped.get("comment lines", 0) for chunk in found) == 8


def test_a_file_of_comments_alone_holds_no_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no sentences"):
        chunks(tmp_path / "a.conll", "# id 1\n\n# id 2\n")


def test_the_sample_of_the_documentation_is_read_as_it_says(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "data-formats.md").read_text(encoding="utf-8")
    section = page.partition("## Token files")[2]
    sample, given = (section.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("text", "yaml"))
    options = yaml.safe_load(given)["data"]
    columns = {name: options[name] for name in ("tokens_column", "label_column")}
    assert read(tmp_path / "train.conll", sample, **columns) == [(2, ["New York", "sleeps"], ["B-LOC", "O"])]
