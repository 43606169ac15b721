from lightning_offrl.data.text_table import aligned


def test_texts_stand_at_the_left_and_no_line_ends_in_blanks():
    assert aligned([["a", "bb", "c"], ["longer", "b", ""]]) == ["a       bb  c", "longer  b"]


def test_numbers_stand_at_the_right():
    assert aligned([["name", "n"], ["x", "10"]], numbers=True) == ["name   n", "x     10"]
