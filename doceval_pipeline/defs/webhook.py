"""The sensor that notifies an external receiver of completed and held batches; off without a receiver."""

import dagster as dg

from doceval_pipeline.batches.databases import database_errors
from doceval_pipeline.batches.webhook.notifications import SendResult, send_pending
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
        description="Notifies the receiver at DOCEVAL_WEBHOOK_URL of completed and held batches, at least "
        "once. Failed messages are sent again and block nothing.",
    )
    def _send(context: dg.SensorEvaluationContext, doc_eval: DocEval) -> dg.SkipReason:
        if not is_wanted:
            return dg.SkipReason("DOCEVAL_WEBHOOK_URL is not set: notifications are disabled")
        with database_errors():
            return dg.SkipReason(_summary(send_pending(doc_eval.open())))

    return _send


def _summary(result: SendResult) -> str:
    if not result.delivered and not result.failed:
        return "no pending messages"
    parts = [f"sent: {', '.join(result.delivered)}"] if result.delivered else []
    parts += [f"{identifier}: {failure}" for identifier, failure in result.failed.items()]
    return "; ".join(parts)
