"""Exchange with other libraries.

Formats, one module each, as `formats.Format` says: `saelens` (our own format on disk), `dictionary_learning`,
`sparsify`, `circuit_tracer`. `formats` lists them and recognises a folder's. What they share: `inference_form`, the
batch-free autoencoder that every format stores, and `files`, which reads and checks.

Adapters: `saelens_training` makes our choices architectures of SAELens' trainer, `saebench` is the object that SAEBench
takes.
"""
