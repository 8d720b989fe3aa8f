"""The small files beside the weights, merged three ways: config, generation config, template, processors."""
