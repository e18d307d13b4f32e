"""Results for people: tables and curves."""


def markdown(results):
    """The results as tables."""
    kit = results["kit"]
    lines = [
        f"# GPU kit: {results['device']}{', quick' if results['quick'] else ''}, {results['date']}",
        "",
        f"Kit of {kit['made']}, commit {kit['commit']}; PyTorch {results['torch']}.",
        "",
        "| part | status | seconds | result |",
        "|---|---|---|---|",
    ]
    cell = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    for part in results["parts"]:
        lines.append(f"| {part['name']} | {part['status']} | {part['seconds']} | {cell(part['result'])} |")
    by_number = {part["part"]: part for part in results["parts"]}
    if by_number.get(2, {}).get("step_against_cpu"):
        lines += ["", "One step against float64 on the CPU: largest error, gradients, masks.", ""]
        lines += [f"* {line}" for line in by_number[2]["step_against_cpu"]]
    steps = by_number.get(4, {}).get("steps", [])
    if steps:
        lines += ["", "| encoder | clips | precision | step | of the matrix rate | images/s | memory | batched PyTorch | released PyTorch |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in steps:
        own = row.get("dora")
        if own:
            memory = own.get("peak_memory_bytes", 0) / 2**30
            figures = [f"{1e3 * own['step_seconds']:.1f} ms", f"{own['share_of_matrix_rate']:.3f}"]
            figures += [f"{own['images_per_s']:.0f}", f"{memory:.1f} GiB"]
        else:
            figures = [row.get("error", ""), "", "", ""]
        for like in ("batched", "released"):
            peer = row.get(like, {})
            text = peer.get("error", "")
            if "step_seconds" in peer:
                text = f"{1e3 * peer['step_seconds']:.1f} ms"
                text += f" ({peer['step_seconds'] / own['step_seconds']:.2f})" if own else ""
                text += f", {peer['peak_memory_gib']:.1f} GiB" if "peak_memory_gib" in peer else ""
            figures.append(text)
        cells = [row["arch"], row["clips"], row["precision"], *figures]
        lines.append("| " + " | ".join(cell(text) for text in cells) + " |")
    profiled = by_number.get(4, {}).get("profile")
    if profiled:
        arch, clips, precision = profiled["of"]
        text = f"A step of {arch}, {clips} clip(s), {precision}, by "
        if "waits_a_step" in profiled:
            text += "kernel: {kernels_a_step:.0f} kernels and copies, {copies_a_step:.0f} of them copies, ".format(**profiled)
            text += "{launches_a_step:.0f} launches and {waits_a_step:.0f} waits of the host (two are the ".format(**profiled)
            text += "bench's); the GPU is busy for {busy_share_of_step:.2f} of the step.".format(**profiled)
        else:
            text += "operator, without what it calls itself."
        lines += ["", text, "", "| kernel | calls | ms | share |", "|---|---|---|---|"]
        for row in profiled["kernels"]:
            name = cell(row["name"][:90])
            lines.append(f"| `{name}` | {row['calls']} | {row['total_us'] / 1e3:.2f} | {row['share']:.1%} |")
    lines += ["", *[f"* {note}" for note in results["notes"]]] if results["notes"] else []
    return "\n".join(lines) + "\n"


def curves(title, lines, names):
    """Figures over steps as an SVG, each on a scale of its own."""
    width, height, rows = 640, 130, []
    last = max(lines[-1]["step"], 2)
    for index, name in enumerate(names):
        values = [line[name] for line in lines]
        low, high = min(values), max(values)
        x = lambda line: 10 + (width - 20) * line["step"] / last
        y = lambda line: height * (index + 1) - 10 - (height - 40) * (line[name] - low) / ((high - low) or 1)
        points = " ".join(f"{x(line):.1f},{y(line):.1f}" for line in lines)
        label = f"{title}: {name}, {values[0]:.4f} to {values[-1]:.4f} (from {low:.4f} to {high:.4f})"
        rows.append(f'<text x="10" y="{height * index + 20}" font-size="13" font-family="sans-serif">{label}</text>')
        rows.append(f'<polyline points="{points}" fill="none" stroke="#1f6fb4"/>')
    size = f'width="{width}" height="{height * len(names)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n' + "\n".join(rows) + "\n</svg>\n"
