"""The documents name tests that exist: a promise without a test is none."""

import pytest

import documents


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in documents.deviations()])
def test_a_documented_deviation_has_its_test(row):
    assert row.test in documents.test_names()


def test_deviations_have_ids_of_their_own():
    ids = [row.id for row in documents.deviations()]
    assert len(ids) == len(set(ids)) > 20


def test_every_case_that_others_get_wrong_has_a_row():
    assert sorted(documents.cases()) == sorted(documents.IDS)


@pytest.mark.parametrize("case", documents.IDS)
def test_a_case_that_others_get_wrong_has_its_test(case):
    test, names = documents.cases()[case], documents.test_names()
    if test is not None:
        assert test in names
