"""Wrong answers to the exercises of the tutorials: tutorial -> number of the exercise -> code that must not pass its check."""

unit = "def answer_2(guess, target, tau):\n    g, t = F.normalize(guess, dim=-1), F.normalize(target, dim=-1)\n    return "   # of lesson 06
winter = """def answer_1(layout, missing, generator, share=.5):
    n = round(share * layout.n_times)
    first = torch.randint(0, layout.n_times - n + 1, (len(missing), 1), generator=generator)
    gone = (layout.time >= first) & (layout.time < first + n) & layout.where("sentinel2_l2a", "landsat")
    return torch.where(gone | layout.where(*MAPS), Role.DECODE, Role.ENCODE).to(torch.int8)"""   # of lesson 07: right, and spoiled below

linear = "linear = {r['embedding']: r for r in rows if r['probe'] == 'linear'}\n"   # of lesson 01
cast = ("@strategy('overcast')\ndef overcast(layout, missing, generator, share: float = .5):\n"     # of lesson 02
        "    grey = {}\n    hidden = grey[:, layout.time.clamp(min=0)] & layout.where({})\n"
        "    return at_least_one(finish(torch.where(hidden, Role.DECODE, Role.ENCODE).to(torch.int8), layout, missing, MAPS), layout, generator)\nanswer_2 = 'overcast'")
drawn, optical = "torch.rand(len(missing), layout.n_times, generator=generator)", "'sentinel2_l2a', 'landsat'"
scattered = """def answer_1(layout, missing, generator, share=.5):
    rank = torch.rand(len(missing), layout.n_times, generator=generator).argsort(1).argsort(1)
    gone = (rank < round(share * layout.n_times))[:, layout.time.clamp(min=0)] & layout.where("sentinel2_l2a", "landsat")
    return torch.where(gone, Role.DECODE, Role.ENCODE).to(torch.int8)"""                            # no run

WRONG: dict[str, dict[int, list[str]]] = {
    "00_tour": {
        1: ["def answer_1(number, decibel): return number / 100, 10 ** (decibel / 10)",           # percent
            "def answer_1(number, decibel): return number / 10000, 10 ** (decibel / 20)",         # amplitude
            "def answer_1(number, decibel): return number / 10000, decibel / 10"],
        2: ["answer_2 = (next(i for i, s in enumerate(copies) if not find_problems(s)), tile)",
            "answer_2 = (next(i for i, s in enumerate(copies) if find_problems(s)), next(s for s in copies if find_problems(s)))",
            "k = next(i for i, s in enumerate(copies) if find_problems(s)); old = copies[k].arrays\n"
            "answer_2 = (k, replace(copies[k], arrays={**old, 'sentinel1': 20 * np.log10(old['sentinel1'])}))"],
        3: ["answer_3 = 3", "answer_3 = 8", "answer_3 = 10", "answer_3 = 12"],
        4: ["answer_4 = 256 * 13", "answer_4 = 256 * 30", "answer_4 = 256 * 24", "answer_4 = 64 * 25"]},
    "01_quickstart": {
        1: ["answer_1 = max((k.removeprefix('share/') for k in history.keys() if k.startswith('share/') and k != 'share/instance'), key=lambda k: history.mean('share/' + k))",
            "answer_1 = 'instance'", "answer_1 = 'Sentinel-1'"],
        2: [linear + "answer_2 = set(claims) - {k for k, (a, b) in claims.items() if linear[a]['low'] > linear[b]['high']}",   # the others
            linear + "answer_2 = {k for k, (a, b) in claims.items() if linear[a]['low'] > linear[b]['high']} ^ {'B'}",         # one too many or too few
            "answer_2 = {'D'}"]},
    "02_masks": {
        1: ["answer_1 = MaskSettings('random')", "answer_1 = MaskSettings('space')", "answer_1 = MaskSettings('time')",
            "answer_1 = MaskSettings('cross_modality')",
            "answer_1 = MaskSettings('random_time_with_decode', {'encode_ratio': .25, 'random_ratio': 0.})",   # too little is visible
            "answer_1 = MaskSettings('random_time_with_decode', {'random_ratio': 1.})",                        # twins of the same date
            "answer_1 = 'random_time_with_decode'"],
        2: ["answer_2 = 'clouds'", "answer_2 = 'time'", "answer_2 = 'space'", "answer_2 = 'overcst'",
            cast.format(f"{drawn} < share", optical + ", 'sentinel1'"),                           # radar is hidden too
            cast.format(f"{drawn} < share", "'sentinel2_l2a'"),                                   # Landsat is not
            cast.format(f"{drawn} < share / 2", optical),
            cast.format("(torch.arange(layout.n_times) % 2 == 0).expand(len(missing), -1)", optical)],   # every other month, whatever the seed
        3: ["answer_3 = 'sentinel1'", "answer_3 = 'sentinel2_l2a'"]},
    "03_embeddings": {
        1: ["answer_1 = (0, 0), (0, 0)",                                                          # one place, as like itself as can be
            "answer_1 = (0, 0), (-1, 0)",
            "answer_1 = tuple(map(tuple, places.places(np.argwhere(np.isnan(cosine))[0]).tolist()))",                          # two colours
            "answer_1 = tuple(map(tuple, places.places(np.unravel_index(np.nanargmin(np.abs(cosine - .9)), cosine.shape)).tolist()))"],
        2: ["answer_2 = [(34, 18)], []", "answer_2 = [(34, 18), (17, 27), (34, 18), (17, 27), (34, 18)], []",
            "answer_2 = [(34, 18), (18, 44)], []",                                                # maize
            "answer_2 = [], [(34, 18)]", "answer_2 = [(34, 18), (17, 27)], [(34, 17)]"],          # wheat as a negative
        3: ["answer_3 = [('field', 15, 15)]",                                                     # what it knew already
            "answer_3 = [('grass', 4, 41)]",                                                      # as the map says, and it is no grass
            "answer_3 = [('field', 45, 20), ('field', 4, 41), ('field', 38, 9), ('field', 28, 28), ('field', 36, 20)]", "answer_3 = [('alfalfa', 4, 41)]"],
        4: ["answer_4 = 'inside'", "answer_4 = 'both'"]},
    "04_scene_to_map": {
        1: ["answer_1 = 1.5", "answer_1 = 0.",                                                    # all of the map, errors too
            "answer_1 = max((t for t in np.arange(101) / 100 if shown(t, VALID)[1] >= wanted), default=.9)",   # right, and hardly anything stays
            "answer_1 = None if any(shown(t, VALID)[1] >= wanted for t in np.arange(101) / 100) else .9"],
        2: ["def answer_2(counts, mapped): return mapped",                                        # counted pixels
            "def answer_2(counts, mapped): return mapped.sum() * counts.sum(0) / counts.sum()",   # the sample alone
            "def answer_2(counts, mapped): return mapped * counts.diagonal() / counts.sum(1)",    # only what is right
            "def answer_2(counts, mapped): return (mapped * counts / counts.sum(0)).sum(1)",      # rows and columns exchanged
            "def answer_2(counts, mapped): return (mapped[:, None] * counts / counts.sum(1, keepdims=True)).sum()"]},
    "05_benchmark": {
        1: ["answer_1 = 12", "answer_1 = 25"],
        2: ["def answer_2(low, high): return 'better' if low + high > 0 else 'worse'",           # the middle of the interval decides
            "def answer_2(low, high): return 'better' if high > 0 else 'worse'"]},
    "06_targets_and_losses": {
        1: ["answer_1 = 128", "answer_1 = 96", "answer_1 = 1024"],                                # in proportion to D; far too many
        2: ["def answer_2(guess, target, tau): return F.cross_entropy(guess @ target.T / tau, torch.arange(len(guess)))",                                 # lengths
            unit + "F.cross_entropy(g @ t.T, torch.arange(len(g)))",                              # temperature
            unit + "F.cross_entropy(t @ g.T / tau, torch.arange(len(g)))",                        # the other way
            unit + "F.cross_entropy(g @ t.T / tau, torch.arange(len(g)), reduction='none')",
            unit + "F.cross_entropy(g.detach() @ t.T / tau, torch.arange(len(g))) + 0 * g.sum()"],   # the value without its gradient
        3: ["def answer_3(hard, easy, n, tau): return 1 / (1 + n * np.exp(easy - hard))",          # temperature
            "def answer_3(hard, easy, n, tau): return 1 / (1 + n)",
            "def answer_3(hard, easy, n, tau): return np.exp(hard / tau) / (np.exp(.9 / tau) + np.exp(hard / tau) + n * np.exp(easy / tau))"]},   # the positive is no negative
    "07_your_own_mask": {
        1: ["answer_1 = season",                                                                  # radar goes, too
            winter.replace("(len(missing), 1)", "(1, 1)"),                                        # one run for the whole batch
            winter.replace('"sentinel2_l2a", "landsat"', '"sentinel2_l2a"'),
            scattered,
            winter.replace("gone |", "(gone & (layout.row == 0)) |")],                            # half of the places
        2: ["answer_2 = {k: 'higher' if np.mean(d) > 0 else 'lower' for k, d in differences.items()} | {'knn': 'surely'}",
            "answer_2 = {k: 'cannot tell' if min(d) > 0 or max(d) < 0 else 'higher' for k, d in differences.items()}",
            "answer_2 = {'held_share': 'cannot tell'}"],
        3: ["def answer_3(s, d): return max(1, int(np.ceil(2 * s / d)))",                         # no square
            "def answer_3(s, d): return max(1, int(np.ceil((s / d) ** 2)))",                      # one standard error
            "def answer_3(s, d): return (2 * s / d) ** 2",
            "def answer_3(s, d): return 10"]},
    "08_when_it_fails": {
        1: ["answer_1 = {'A': 'stagnation', 'B': 'collapse', 'C': 'overfitting'}",                # the lowest loss is taken for overfitting
            "answer_1 = {'A': 'collapse', 'B': 'overfitting', 'C': 'stagnation'}",                # a flat curve is taken for collapse
            "answer_1 = {'A': 'stagnation', 'B': 'stagnation', 'C': 'stagnation'}"],
        2: ["answer_2 = {'target': 'momentum'}",                                                  # slower, on the same way
            "answer_2 = {'target': 'frozen', 'lr': 1e-3}",                                        # two changes
            "answer_2 = {'brake': True}"],
        3: ["answer_3 = {'steps': 80}", "answer_3 = {'learning_rate': 3e-3}"],
        4: ["answer_4 = {'steps': 20}",                                                           # stops before anything is learned
            "answer_4 = {'squares': 0}"]},
}
