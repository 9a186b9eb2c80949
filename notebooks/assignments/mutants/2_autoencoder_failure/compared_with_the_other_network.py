"""
misconception: the claim compares the two networks instead of lesion and tissue
fails: [a2-finding-test]
says: "does not follow from your interval"
"""

# %% a2-finding
finding, people = {}, well.table["subject"].tolist()
for kind in networks:
    ratios = log_ratio(networks[kind], batch(before), batch(after), spots)
    low, high = paired_interval(ratios, 0 * ratios, people)
    finding[kind] = {"value": float(ratios.mean()), "low": low, "high": high}
finding["claim"] = finding["copying"]["high"] < finding["dense"]["low"]
