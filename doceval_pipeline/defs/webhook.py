"""The sensor that tells a receiver outside of batches that completed or are held; off without a receiver."""

import dagster as dg

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.webhook.notifications import Told, tell
from doceval_pipeline.defs.resources import DocEval
from doceval_pipeline.defs.sensors import SECONDS_BETWEEN_TICKS
from doceval_pipeline.settings import Settings


def completion_webhook(settings: Settings) -> dg.SensorDefinition:
    """The sensor, on by default where `DOCEVAL_WEBHOOK_URL` is set."""
    is_wanted = settings.webhook_url is not None

    @dg.sensor(
        name="completion_webhook",
        minimum_interval_seconds=SECONDS_BETWEEN_TICKS,
        default_status=dg.DefaultSensorStatus.RUNNING if is_wanted else dg.DefaultSensorStatus.STOPPED,
        description="Tell the receiver at DOCEVAL_WEBHOOK_URL of batches that completed or are held, at "
        "least once. What fails is sent again, and holds nothing up.",
    )
    def _tell(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SkipReason:
        if not is_wanted:
            return dg.SkipReason("DOCEVAL_WEBHOOK_URL is not set: notifications are disabled")
        with database_errors():
            return dg.SkipReason(_in_a_line(tell(doc_eval.open())))

    return _tell


def _in_a_line(told: Told) -> str:
    if not told.delivered and not told.failed:
        return "nothing to tell"
    said = [f"told: {', '.join(told.delivered)}"] if told.delivered else []
    said += [f"{identifier}: {why}" for identifier, why in told.failed.items()]
    return "; ".join(said)
