"""Every table of the durable state, in one place, so that SQLite and Postgres hold the same.

Times are seconds since the epoch (float, UTC). Digests are lower-case hex.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

samples = Table(
    "samples",
    metadata,
    # Grows in the order of commits (there is one writer at a time), whatever the clocks of the hosts say.
    Column("seq", Integer, primary_key=True, autoincrement=True),
    # Two models that see the same image have a sample each.
    Column("model", String(200), nullable=False),
    Column("id", String(64), nullable=False, comment="content digest of the image bytes"),
    Column("camera", String(200), nullable=False),
    Column("recording", String(300), nullable=False, comment="group key: never split across train and test"),
    Column("captured_at", Float, nullable=False),
    Column("stored_at", Float, nullable=False),
    Column("strategy", String(50), nullable=False),
    Column("inclusion_probability", Float, nullable=False),
    Column("confidence", Float, nullable=True, comment="null: no box reached the display floor"),
    Column("release", String(64), nullable=False, comment="digest of the release that predicted it"),
    Column("pack", String(64), nullable=False, comment="digest of the pack that holds the image"),
    Column("file_name", String(80), nullable=False, comment="of the image inside the pack"),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("prediction", JSON, nullable=False, comment="Detections.to_json()"),
    Column("metadata", JSON, nullable=False),
    Column("cycle_id", String(200), nullable=True, comment="the cycle that selected it; null while waiting"),
    Index("samples_waiting", "model", "cycle_id"),
    Index("samples_by_id", "id"),
    Index("samples_by_pack", "pack"),
    UniqueConstraint("model", "id"),
    # Without it SQLite gives the number of a deleted newest row to the next one.
    sqlite_autoincrement=True,
)

draws = Table(
    "draws",
    metadata,
    Column(
        "id", String(100), primary_key=True, comment="of the spooled record: handed over twice, counted once"
    ),
    Column("model", String(200), nullable=False),
    Column("camera", String(200), nullable=False),
    Column("release", String(64), nullable=False),
    Column("captured_at", Float, nullable=False),
    Column("stored_at", Float, nullable=False),
    Column("strategy", String(50), nullable=False),
    Column("reason", String(300), nullable=False, comment="why it was taken"),
    Column("inclusion_probability", Float, nullable=False),
    Column(
        "audit", Integer, nullable=False, comment="1: drawn by the audit arm, whatever the strategy wanted"
    ),
    # stored | duplicate | near-duplicate | rejected; once its picture was deleted: forgotten | expired
    Column("outcome", String(20), nullable=False),
    Column("detail", String(500), nullable=False, comment="why it was rejected; empty otherwise"),
    Column("sample_id", String(64), nullable=True, comment="the sample that holds its picture"),
    Index("draws_by_sample", "sample_id"),
    Index("draws_by_time", "model", "stored_at"),
)

likenesses = Table(
    "likenesses",
    metadata,
    # Grows in the order of commits (there is one writer at a time), whatever the clocks of the hosts say.
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("sample_id", String(64), nullable=False),
    Column("model", String(200), nullable=False),
    Column("camera", String(200), nullable=False),
    Column(
        "picture", LargeBinary, nullable=False, comment="PerceptualHash.to_bytes(), to find near-duplicates"
    ),
    Index("likenesses_by_model", "model", "seq"),
    UniqueConstraint("model", "sample_id"),
    sqlite_autoincrement=True,
)

packs = Table(
    "packs",
    metadata,
    Column("id", String(64), primary_key=True, comment="content digest of the pack"),
    Column(
        "owner", String(300), nullable=False, comment="the spool it was made from, or who is to delete it"
    ),
    # arriving: perhaps not whole yet, referred to by no sample | stored | leaving: being deleted
    Column("state", String(20), nullable=False),
    Column("images", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("made_at", Float, nullable=False),
)

tombstones = Table(
    "tombstones",
    metadata,
    # sample: never stored again | camera, model: nothing handed over until then is stored |
    # expired: a sample that a cycle had selected and retention deleted; it may come again
    Column("kind", String(10), primary_key=True),
    Column("key", String(200), primary_key=True, comment="sample id, or name of the camera or model"),
    Column("buried_at", Float, nullable=False),
    Column("reason", String(300), nullable=False),
)

annotations = Table(
    "annotations",
    metadata,
    Column("sample_id", String(64), primary_key=True),
    Column("cycle_id", String(200), primary_key=True),
    Column("source", String(20), nullable=False, comment="auto | human"),
    Column("annotator", String(200), nullable=False, comment="release digest or reviewer name"),
    Column("objects", JSON, nullable=False, comment="Annotations.to_json()"),
    Column("made_at", Float, nullable=False),
)

crossings = Table(
    "crossings",
    metadata,
    Column("id", String(200), primary_key=True, comment="trigger id, <model>-<kind>-<number>"),
    Column("model", String(200), nullable=False),
    Column("number", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    Column("threshold", Integer, nullable=False),
    Column("crossed_at", Float, nullable=False),
    Column(
        "emitted_at",
        Float,
        nullable=True,
        comment="when the event was handed to Prefect; a hint, not a proof",
    ),
    Column(
        "scope",
        String(300),
        nullable=False,
        server_default="samples",
        comment="samples | class <name> | camera <name>",
    ),
    Column(
        "counted_until",
        Integer,
        nullable=False,
        comment="highest samples.seq then; a time would depend on the clocks of the collecting hosts",
    ),
    UniqueConstraint("model", "number"),
)

cycles = Table(
    "cycles",
    metadata,
    Column("id", String(250), primary_key=True),
    Column("model", String(200), nullable=False),
    Column("trigger_id", String(200), nullable=False),
    Column("config_hash", String(64), nullable=False),
    # running | promoted | kept_champion | nothing_to_do | abandoned
    Column("status", String(30), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("finished_at", Float, nullable=True),
    Column("outcome", JSON, nullable=True),
)

stages = Table(
    "stages",
    metadata,
    Column("cycle_id", String(250), primary_key=True),
    Column("stage", String(50), primary_key=True),
    Column("input_hash", String(64), nullable=False),
    Column("output", JSON, nullable=False),
    Column("token", BigInteger, nullable=False, comment="fencing token it was written under"),
    Column("started_at", Float, nullable=False),
    Column("finished_at", Float, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(250), primary_key=True),
    Column("holder", String(300), nullable=False, comment="host:pid:process start time:nonce"),
    Column("token", BigInteger, nullable=False, comment="grows by one with every acquisition"),
    Column("expires_at", Float, nullable=False),
)

journal = Table(
    "journal",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("stream", String(200), nullable=False),
    Column("key", String(300), nullable=False, comment="written once per stream: a retry adds nothing"),
    Column("kind", String(100), nullable=False),
    Column("payload", JSON, nullable=False),
    Column("at", Float, nullable=False),
    UniqueConstraint("stream", "key"),
)

routes = Table(
    "routes",
    metadata,
    Column("model", String(200), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("control", String(64), nullable=False, comment="release digest"),
    Column("candidate", String(64), nullable=True),
    Column("mode", String(20), nullable=False, comment="control: all traffic to control"),
    Column("traffic_fraction", Float, nullable=False),
    Column("salt", String(64), nullable=False),
    Column("attempt", String(250), nullable=False),
    Column("updated_at", Float, nullable=False),
)

replicas = Table(
    "replicas",
    metadata,
    Column("model", String(200), primary_key=True),
    Column("replica", String(200), primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("digest", String(64), nullable=False, comment="of the release it has loaded and serves"),
    Column("seen_at", Float, nullable=False),
)

aliases = Table(
    "aliases",
    metadata,
    Column("model", String(200), primary_key=True),
    Column("alias", String(50), primary_key=True, comment="champion | challenger"),
    Column("digest", String(64), nullable=False),
    Column("version", String(50), nullable=False, comment="MLflow model version"),
    Column("revision", BigInteger, nullable=False),
    Column("moved_at", Float, nullable=False),
)

ledger = Table(
    "ledger",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=True),
    Column("model", String(200), nullable=False),
    Column("key", String(300), nullable=False, unique=True, comment="a retry adds nothing"),
    Column("kind", String(50), nullable=False),
    Column("at", Float, nullable=False),
    Column("payload", Text, nullable=False, comment="canonical JSON, hashed as it stands"),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)
