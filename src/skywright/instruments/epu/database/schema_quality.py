"""Tables of quality models: predictions, their weights and parameters, metrics, hole groups."""

from sqlalchemy import Boolean, Column, Float, Index, Integer, Table, Text

from skywright.instruments.epu.database.schema import Instant, counted, metadata, parent


def _grid() -> Column[str]:
    return parent("grid_uuid", "grid.uuid", nullable=False)


def _model_and_metric() -> list[Column[str]]:
    model = parent("prediction_model_name", "prediction_model.name", nullable=False)
    return [model, parent("metric_name", "metric.name")]


def _subjects() -> list[Column[str]]:
    return [parent("gridsquare_uuid", "gridsquare.uuid"), parent("foilhole_uuid", "foilhole.uuid")]


prediction_model = Table(
    "prediction_model",
    metadata,
    Column("name", Text, primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
    Column("level", Text, nullable=False, server_default="gridsquare"),
    Column("can_train", Boolean, nullable=False, server_default="0"),
    Column("can_infer", Boolean, nullable=False, server_default="1"),
    Column("can_update", Boolean, nullable=False, server_default="0"),
)

metric = Table(
    "metric",
    metadata,
    Column("name", Text, primary_key=True),
    Column("description", Text, nullable=False, server_default=""),
)

metric_statistics = Table(
    "metric_statistics",
    metadata,
    parent("name", "metric.name", primary_key=True),
    parent("grid_uuid", "grid.uuid", primary_key=True),
    Column("count", Integer, nullable=False),
    Column("value_sum", Float, nullable=False),
    Column("squared_value_sum", Float, nullable=False),
)

model_parameter = Table(
    "model_parameter",
    metadata,
    counted("id"),
    _grid(),
    Column("timestamp", Instant, nullable=False),
    *_model_and_metric(),
    Column("key", Text, nullable=False),
    Column("value", Float, nullable=False),
    Column("group", Text, nullable=False, server_default=""),
    Index(None, "grid_uuid", "prediction_model_name", "group", "key"),
)

model_weight = Table(
    "model_weight",
    metadata,
    counted("id"),
    _grid(),
    parent("micrograph_uuid", "micrograph.uuid"),
    Column("micrograph_quality", Boolean),
    Column("timestamp", Instant, nullable=False),
    Column("origin", Text),
    *_model_and_metric(),
    Column("weight", Float, nullable=False),
    # What the model had predicted of the micrograph; none where it had predicted nothing.
    Column("prediction_value", Float),
    Index(None, "grid_uuid", "prediction_model_name", "id"),
    Index(None, "micrograph_uuid"),
)

current_model_weight = Table(
    "current_model_weight",
    metadata,
    counted("id"),
    _grid(),
    *_model_and_metric(),
    Column("weight", Float, nullable=False),
    Index(None, "grid_uuid", "prediction_model_name"),
)

prediction = Table(
    "prediction",
    metadata,
    counted("id"),
    Column("timestamp", Instant, nullable=False),
    Column("value", Float, nullable=False),
    *_model_and_metric(),
    *_subjects(),
    Index(None, "gridsquare_uuid", "id"),
    Index(None, "foilhole_uuid", "id"),
)

current_prediction = Table(
    "current_prediction",
    metadata,
    counted("id"),
    _grid(),
    Column("value", Float, nullable=False),
    *_model_and_metric(),
    *_subjects(),
    Index(None, "gridsquare_uuid"),
    Index(None, "foilhole_uuid"),
    Index(None, "grid_uuid"),
)

overall_prediction = Table(
    "overall_prediction",
    metadata,
    counted("id"),
    _grid(),
    Column("value", Float, nullable=False),
    *_subjects(),
    Column("suggested_acquisition_index", Integer),
    Index(None, "gridsquare_uuid"),
    Index(None, "foilhole_uuid"),
    Index(None, "grid_uuid"),
)

foilhole_group = Table(
    "foilhole_group",
    metadata,
    counted("id"),
    Column("uuid", Text, nullable=False, unique=True),
    _grid(),
    Column("name", Text, nullable=False, server_default=""),
    Index(None, "grid_uuid"),
)

foilhole_group_member = Table(
    "foilhole_group_member",
    metadata,
    parent("group_uuid", "foilhole_group.uuid", primary_key=True),
    parent("foilhole_uuid", "foilhole.uuid", primary_key=True),
    Index(None, "foilhole_uuid"),
)

group_prediction = Table(
    "group_prediction",
    metadata,
    counted("id"),
    parent("group_uuid", "foilhole_group.uuid"),
    Column("timestamp", Instant, nullable=False),
    Column("value", Float, nullable=False),
    *_model_and_metric(),
    Index(None, "group_uuid", "id"),
)
