"""Tables in Markdown."""

from timm_debias.markdown import table_lines


def test_a_line_for_the_head_its_rule_and_each_row():
    assert table_lines(['', 'one'], [('a', '1'), ['b', '']]) == ['|  | one |', '| --- | --- |', '| a | 1 |', '| b |  |']
    assert table_lines(['a'], iter([])) == ['| a |', '| --- |']
