"""Wrong answers to the exercises of the tutorials: tutorial -> number of the exercise -> code that must not pass its check."""

unit = "def answer_2(guess, target, tau):\n    g, t = F.normalize(guess, dim=-1), F.normalize(target, dim=-1)\n    return "   # of lesson 06

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
