"""Real scenes, real labels: networks beside the majority class and a random forest.

    python -m benchmarks.real --data ../shared/data/real --out runs/real

finds every site that has scenes and a label raster, plans the experiments that they allow,
runs them one after the other and writes docs/real-data.md. Each result is one JSON file:
a call that is repeated goes on with what is missing.

    sites.py        folders to sites: cube, labels, legend
    experiments.py  sites to experiments: which pixels train, which test
    splits.py       one experiment to chips and masks
    methods.py      majority class, random forest, networks: to a confusion matrix
    page.py         confusion matrices to the page
"""
