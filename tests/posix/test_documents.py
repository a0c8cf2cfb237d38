"""The documents name tests that exist: a promise without a test is none."""

import pytest

import documents


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in documents.deviations()])
def test_a_documented_deviation_has_its_test(row):
    assert row.test in documents.test_names()


def test_deviations_have_ids_of_their_own():
    ids = [row.id for row in documents.deviations()]
    assert len(ids) == len(set(ids)) > 20
