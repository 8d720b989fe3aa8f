"""Run a study: schedule, engines, stores, records."""
