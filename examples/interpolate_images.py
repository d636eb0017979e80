"""From one image to another through the latent space: on a straight line and on an arc.

Codes of a normal prior lie near a sphere. A straight line between two of them passes nearer to the centre, where the
prior has few; an arc keeps its distance. In few dimensions the two hardly differ.
"""

import argparse
from pathlib import Path

import numpy as np

from vaekit import load, plots, train
from vaekit.trained.run import as_floats, open_run
from vaekit.trained.walks import interpolate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--recipe", default="digits")
parser.add_argument("--out", type=Path, default=Path("runs/example-interpolation"))
parser.add_argument("--files", nargs=2, metavar=("A", "B"), help="two images of your own")
parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
options = parser.parse_args()

run = train(options.recipe, *options.overrides, out=options.out, resume=True)
vae = load(run)

if options.files:
    start, end = vae.encode(options.files)
else:
    test = open_run(run).dataset("test")
    other = int((test.labels != test.labels[0]).nonzero()[0]) if test.labels is not None else 1
    start, end = vae.encode(list(vae.to_images(test.images[[0, other]] / 255)))

rows = []
for mode in ("linear", "spherical"):
    codes = interpolate(start, end, 10, mode)
    norms = np.linalg.norm(codes, axis=1)
    print(f"{mode:10} distance from the centre: {norms[0]:.2f} at the start, {norms[5]:.2f} midway, {norms[-1]:.2f}")
    rows.append(as_floats(vae.decode(codes)))

sheet = plots.labelled_grid(rows, title="from one code to another", row_labels=("on a straight line", "on an arc"))
print(plots.save_picture(sheet, options.out / "grids" / "line_and_arc.png"))
