import json
import sys

import iml_bench

results = iml_bench.run("vision", model=["mlp-xs", "mlp-s"], seeds=2, smoke=True, out=sys.argv[1], workers=2)
print(results.cells.filter(reference=False)["model", "seed", "iml"])
again = iml_bench.read(sys.argv[1])
first = again.items.filter(key=again[0].record.key)
print(json.dumps({row.model: row.scores["iml"].mean for row in iml_bench.board(sys.argv[2]).rows if not row.reference}))
print(json.dumps([versus.difference.mean for versus in iml_bench.compare("mlp-m", "convnet-s", records=sys.argv[2])]))
print(json.dumps([iml_bench.score(first).model_dump(), again[0].record.scores.model_dump()]))
