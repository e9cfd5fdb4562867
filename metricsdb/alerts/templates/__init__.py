"""Go's templates as Prometheus and Alertmanager users write them."""

from metricsdb.alerts.templates.alertmanager import Data, NotificationTemplates
from metricsdb.alerts.templates.prometheus import Query, check, expand, humanize_duration, render
from metricsdb.alerts.templates.run import Limits

__all__ = ["Data", "Limits", "NotificationTemplates", "Query", "check", "expand", "humanize_duration", "render"]
