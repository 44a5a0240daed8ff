"""Passwords, tokens and keys of an address: known in every form, kept in one private file, shown nowhere."""

from __future__ import annotations

import contextlib
import sqlite3
import stat

import pytest

from gcsearch import files
from gcsearch.config.addresses import check_uri, has_secrets, scrubbed, shown, without_secrets
from gcsearch.config.pipeline import Pipeline
from gcsearch.driver import load, matrix
from gcsearch.driver.prepare import origin_texts
from gcsearch.driver.run import _open_or_begin
from gcsearch.errors import InputError, RunError
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep, open_form
from gcsearch.tracking.tracker import Tracker

SECRET = "S3CRETPW"
FORMS = (
    "http://bob:S3CRETPW@127.0.0.1:9",
    "http://bob:S3CR@S3CRETPW@127.0.0.1:9",
    "http://:S3CRETPW@127.0.0.1:9",
    "https://S3CRETPW@127.0.0.1:9/",
    "https://S3CRETPW:x-oauth-basic@127.0.0.1:9/mlflow",
    "http://bob:S3CRETPW@:9",
    "http://bob:S3CRETPW@[::1",
    "http://bob:S3CRETPW@host:port",
    "http://bob:two words S3CRETPW@host",
    "http://bob:sla/shes S3CRETPW@host",
    "http://bob:ques?tion=S3CRETPW@host",
    "http://127.0.0.1:9/?token=S3CRETPW",
    "http://127.0.0.1:9/#access_token=S3CRETPW",
    "postgresql://me:S3CRETPW@127.0.0.1:9/db",
    "postgresql+psycopg2://me:S3CRETPW@127.0.0.1:9/db?sslmode=require",
    "postgresql://127.0.0.1:9/db?user=me&password=S3CRETPW",
    "postgresql://127.0.0.1:9/db?sslkey=/home/S3CRETPW;sslpassword=S3CRETPW",
    "mysql+pymysql://me:S3CRETPW%40x@127.0.0.1/db",
    "mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BUID%3Dme%3BPWD%3DS3CRETPW",
    "databricks://S3CRETPW@workspace",
    "ftp://bob:S3CRETPW@h",
    "bob:S3CRETPW@h",
    "host=h user=me password=S3CRETPW",
)
NAMELESS = ("http://127.0.0.1:9/?S3CRETPW", "http://127.0.0.1:9/?a=b&S3CRETPW", "http://127.0.0.1:9/#S3CRETPW")
PLAIN = (
    "http://127.0.0.1:5000",
    "https://mlflow.example.org/team",
    "postgresql://me@db.example.org:5432/mlflow?sslmode=require",
    "sqlite:////home/me@uni/mlflow.db",
)


@pytest.mark.parametrize("uri", [*NAMELESS, *FORMS])
def test_a_secret_is_shown_in_no_form_of_an_address(uri):
    assert SECRET not in shown(uri)
    assert SECRET not in str(RunError(f"The store {shown(uri)} refused"))
    assert SECRET not in scrubbed(f"OperationalError: cannot connect to {uri}", uri)
    if uri != FORMS[-1]:
        assert has_secrets(uri)
        assert SECRET not in without_secrets(uri)


@pytest.mark.parametrize("uri", [uri for uri in FORMS if uri.count("S3CR") == 1 and "?tion" not in uri][:4])
def test_a_driver_that_quotes_the_password_alone_is_not_repeated(uri):
    assert SECRET not in scrubbed("nonnumeric port: 'S3CRETPW', login \"S3CRETPW\"", uri)


@pytest.mark.parametrize("uri", PLAIN)
def test_an_address_without_secrets_is_shown_and_kept_as_it_is(uri):
    assert shown(uri) == without_secrets(uri) == uri
    assert not has_secrets(uri)


def test_what_is_left_still_names_the_store():
    assert shown("http://bob:pw@host:9/x") == "http://***@host:9/x"  # a server's user may be its token
    assert shown("postgresql://me:pw@host/db?sslmode=require&password=x") == (
        "postgresql://me:***@host/db?sslmode=require&password=***"
    )
    assert without_secrets("postgresql://me:pw@host/db?sslmode=require&password=x") == (
        "postgresql://me@host/db?sslmode=require"
    )


@pytest.mark.parametrize("uri", [uri for uri in FORMS if "://" in uri and " " not in uri])
def test_no_message_about_a_pipeline_has_the_secret(uri):
    """As the value itself, where a value of another kind belongs, in the wrong table, as a name."""
    text = uri.replace("\\", "\\\\")
    for key, value in {
        "tracking.uri": f'"{text}"',
        "tracking": f'"{text}"',
        "tracking.experiment": f'["{text}"]',
        "name": f'"{text}"',
        "search.space": f'"{text}.toml"',
        "resources.address": f'"{text}"',
        "matrix": f'{{"tracking.uri" = ["{text}"]}}',
    }.items():
        try:
            matrix.load("demo", {key: value})
        except InputError as error:
            assert SECRET not in str(error)
    with pytest.raises(InputError) as refused:
        load.load(uri)
    assert SECRET not in str(refused.value)


def test_an_address_that_cannot_be_told_apart_is_refused():
    for uri in ("http://bob:sla/shes@host", "http://bob:two words@host", "http://[::1", "http://host:port", ""):
        with pytest.raises(InputError, match=r"tracking\.uri: "):
            check_uri(uri)


@pytest.mark.parametrize("uri", ["http://bob:S3CRETPW@127.0.0.1:9", "postgresql://me:S3CRETPW@127.0.0.1:9/db"])
def test_a_store_that_does_not_answer_is_named_without_its_password(uri):
    with pytest.raises((RunError, InputError)) as refused:
        Tracker(uri, "demo")
    assert SECRET not in str(refused.value)
    assert "127.0.0.1:9" in str(refused.value)


def a_pipeline(uri: str | None) -> Pipeline:
    return load.load("demo", {} if uri is None else {"tracking.uri": f'"{uri}"'})


def begin(tmp_path, uri: str | None) -> Sweep:
    pipeline = open_form(a_pipeline(uri))
    return _open_or_begin(pipeline, Store(tmp_path), origin_texts(pipeline), fresh=False, uri=uri)


def test_a_sweep_keeps_the_secret_in_one_file_of_its_owner(tmp_path):
    uri = "http://bob:S3CRETPW@127.0.0.1:9"
    sweep = begin(tmp_path, uri)
    holding = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET in path.read_text()]
    assert holding == [sweep.address]
    assert stat.S_IMODE(sweep.address.stat().st_mode) == 0o600
    assert sweep.mlflow_uri == uri
    assert sweep.pipeline.tracking.uri == "http://127.0.0.1:9"
    assert SECRET not in repr(a_pipeline(uri))


def test_the_same_address_without_its_secret_goes_on_and_another_one_replaces_it(tmp_path):
    first = "postgresql://me:S3CRETPW@db/x"
    begin(tmp_path, first)
    assert begin(tmp_path, "postgresql://me@db/x").mlflow_uri == first
    assert begin(tmp_path, "postgresql://me:other@db/x").mlflow_uri == "postgresql://me:other@db/x"
    changed = begin(tmp_path, "http://127.0.0.1:9")
    assert changed.mlflow_uri == "http://127.0.0.1:9"
    assert not changed.address.exists()
    begin(tmp_path, first)
    assert begin(tmp_path, None).mlflow_uri == Store(tmp_path).mlflow_uri


def test_a_sweep_of_an_earlier_version_is_mended_when_it_goes_on(tmp_path):
    uri = "http://bob:S3CRETPW@127.0.0.1:9"
    sweep = begin(tmp_path, None)
    (sweep.folder / "pipeline.toml").write_text(files.to_toml(a_pipeline(uri).to_dict()))
    old = Sweep("demo", Store(tmp_path), sweep.folder)
    assert old.mlflow_uri == uri
    assert SECRET not in str(old.pipeline.to_dict())
    old.hide_address()
    assert SECRET not in (sweep.folder / "pipeline.toml").read_text()
    assert Sweep("demo", Store(tmp_path), sweep.folder).mlflow_uri == uri


def test_a_matrix_does_not_make_names_of_addresses(tmp_path):
    file = tmp_path / "many.toml"
    file.write_text('[matrix]\n"tracking.uri" = ["http://bob:S3CRETPW@h"]\n')
    with pytest.raises(InputError, match="a matrix has keys of the pipeline") as refused:
        matrix.load(file)
    assert SECRET not in str(refused.value)


def test_a_sqlite_store_is_a_database_or_becomes_one(tmp_path):
    file = tmp_path / "runs.db"
    check_uri(f"sqlite:///{file}")
    file.touch()
    check_uri(f"sqlite:///{file}")
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("CREATE TABLE a (b)")
        database.commit()
    check_uri(f"sqlite:///{file}")
    (tmp_path / "notes.txt").write_text("mine")
    for other in (tmp_path / "notes.txt", "/dev/null"):
        with pytest.raises(InputError, match="must be a SQLite database"):
            check_uri(f"sqlite:///{other}")
