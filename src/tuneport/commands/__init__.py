"""The command line, one file a command: its options come from a record, its work from one public function."""

COMMANDS = {
    "transfer": "write target + (tuned − base), streamed, nothing in between",
    "diff": "take the diff vector tuned − base and keep it in a folder",
    "apply": "add kept diff vectors to a target, one after another",
    "compare": "say from the weights, and from prompts, whether a transfer will work, before it is run",
    "inspect": "say what a folder or Hub id is: checkpoint, diff vector, output, study",
    "verify": "prove an output, from its manifest or from its parents",
    "tune": "fine-tune a model, on TRL",
    "evaluate": "score models and say which differences are significant",
    "study": "run a declared study of many versions as one graph",
    "path": "measure loss on the line between two models",
    "report": "make a page of a study's records, with its figures",
    "demo": "all of it on a family of tiny models pretrained on the spot, in minutes",
}
