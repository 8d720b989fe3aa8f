"""A study is run: schedule, engines, stores, records."""
