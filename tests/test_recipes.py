"""The README's recipes for Spark and Ray give the score card of one call. They run where those are installed."""

import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import fastxent

README = (Path(__file__).parent.parent / "README.md").read_text()
N, C = 1000, 5
RNG = np.random.default_rng(4)
Z, Y, IDS = RNG.normal(size=(N, C)), RNG.integers(0, C, N), 7 * np.arange(N)


def recipe(word):
    """The block of the README that uses a function of this name."""
    (block,) = [code for code in re.findall(r"^```py\n(.*?)^```$", README, re.MULTILINE | re.DOTALL) if word in code]
    return block


def card_of(code, **names):
    exec(code, names)
    return names["card"]


def test_both_recipes_are_in_the_readme():
    for word in ("mapInArrow", "map_batches"):
        compile(recipe(word), "README.md", "exec")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PySpark about pandas, of sockets at its end
def test_spark_gives_the_score_card_of_one_call(monkeypatch):
    sql = pytest.importorskip("pyspark.sql")
    pandas = pytest.importorskip("pandas")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    session = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        table = pandas.DataFrame({"logits": Z.tolist(), "label": Y, "id": IDS})
        frame = session.createDataFrame(table).repartition(4)
        assert card_of(recipe("mapInArrow"), frame=frame) == fastxent.score(Z, Y, ids=IDS)
    finally:
        session.stop()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_score_card_of_one_call():
    ray = pytest.importorskip("ray")
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    data = pytest.importorskip("ray.data")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        rows = [{"logits": Z[i], "label": int(Y[i]), "id": int(IDS[i])} for i in range(N)]
        dataset = data.from_items(rows, override_num_blocks=4)
        assert card_of(recipe("map_batches"), dataset=dataset) == fastxent.score(Z, Y, ids=IDS)
    finally:
        ray.shutdown()
