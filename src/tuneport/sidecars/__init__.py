"""Merge the small files beside the weights three ways: config, generation config, template, processors."""
