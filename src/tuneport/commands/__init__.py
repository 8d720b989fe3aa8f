"""The commands, one file each: options come from a record, the work is done by one public function."""

COMMANDS = {
    "transfer": "transfer a fine-tuning: write target + (tuned − base)",
    "diff": "compute the diff vector tuned − base and save it in a folder",
    "apply": "add saved diff vectors to a target, one after another",
    "export": "export a diff vector as a LoRA adapter or a sparse patch of a target",
    "compare": "check from weights and prompts whether a transfer will work, before you run it",
    "adapt": "improve on plain addition without labels: try scale, distil, tune; keep what is proved better",
    "inspect": "show what a folder or Hub id is: checkpoint, diff vector, output, study",
    "verify": "check an output against its manifest or its parents",
    "tune": "fine-tune a model with TRL",
    "evaluate": "score models and show which differences are significant",
    "study": "run a study of many versions, described in one TOML file",
    "path": "measure the loss on the line between two models",
    "report": "make a report page from a study's results",
    "demo": "try everything in minutes on tiny models, pretrained on this machine",
}
