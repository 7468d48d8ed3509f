"""Reading checkpoints: safe files, the authors' key names.

`loader.PentamaskCheckpointer`, which our tools and `model_zoo.get` use, reads every kind of file without running what
it contains. Detectron2's own `DetectionCheckpointer` needs no help with torch files: `torch.load` (2.6 and later)
reads them with `weights_only`, and our models rename the authors' keys. But it opens `.pkl` files with plain
`pickle.load`, which runs whatever they ask for, and it cannot read `.safetensors` files, or files with the weights
under "state_dict". All that happens before it looks at the model, so no model can change it, and Detectron2 is not
patched here, because it also serves other models. Instead `path_handler` registers a prefix with its `PathManager`:
`DetectionCheckpointer(model).load("pentamask:model.pkl")` reads any of these files safely.
"""
