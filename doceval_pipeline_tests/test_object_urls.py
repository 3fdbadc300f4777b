"""URLs of folders on object storage."""

import pytest

from doceval_pipeline.errors import PathError
from doceval_pipeline.object_urls import (
    ObjectUrl,
    holds_more_than_a_place,
    is_object_url,
    looks_like_url,
    parse_object_url,
)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("s3://bucket/contracts/", "s3://bucket/contracts"),
        ("S3://bucket/a b/Prüfung+%20", "s3://bucket/a b/Prüfung+%20"),
        ("gs://my.bucket_1", "gs://my.bucket_1"),
        ("az://container/", "az://container"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
    ],
)
def test_a_url_is_stored_without_a_slash_at_its_end(given: str, stored: str) -> None:
    assert str(parse_object_url(given)) == stored
    assert parse_object_url(stored) == parse_object_url(given)
    assert is_object_url(stored)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("http://bucket/a", "has an unknown scheme: use s3://, gs://, az:// or a path on disk"),
        ("file:///a", "has an unknown scheme"),
        ("s3://", "names no valid bucket: write it as s3://BUCKET/PREFIX/"),
        ("s3:///a", "names no valid bucket"),
        ("s3://Bucket/a", "names no valid bucket"),
        ("s3://bucket:9000/a", "names no valid bucket"),
        ("s3://bucket//a", "has an empty part"),
        ("s3://bucket/a//", "has an empty part"),
        ("s3://bucket/a/../b", "has an empty part"),
        ("s3://bucket/a\nb", "has an empty part"),
        ("s3://SECRET@bucket/a", "has a user name, a password, a query string or a fragment"),
        ("s3://user:SECRET@bucket/a", "has a user name"),
        ("s3://bucket/a?X-Amz-Signature=SECRET", "has a user name"),
        ("s3://bucket/a#SECRET", "has a user name"),
    ],
)
def test_any_other_url_is_refused_in_one_line_that_repeats_no_secret(given: str, problem: str) -> None:
    assert looks_like_url(given)
    with pytest.raises(PathError) as refused:
        parse_object_url(given)
    assert problem in str(refused.value)
    assert "SECRET" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_paths_are_no_urls() -> None:
    for path in ("./s3", "/s3://bucket", "s3:/bucket", "~/a", "a?b#c@d"):
        assert not is_object_url(path)
        assert not looks_like_url(path)
        assert not holds_more_than_a_place(path)


def test_a_folder_is_inside_another_one_by_whole_parts() -> None:
    outer = ObjectUrl("s3", "bucket", "in")
    assert ObjectUrl("s3", "bucket", "in/sub").is_inside(outer)
    assert outer.is_inside(ObjectUrl("s3", "bucket", ""))
    for other in ("s3://bucket/into", "s3://other/in/sub", "gs://bucket/in/sub", "s3://bucket/in"):
        assert not parse_object_url(other).is_inside(outer)
