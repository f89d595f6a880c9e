"""What the two task files name: how lmms-eval shows a row and scores its answer."""


def pages(doc):
    return doc["images"]


def video(doc):
    return [doc["video"]]


def score(doc, results):
    return {"accuracy": float(results[0].strip() == doc["answer"])}


def mean(scores):
    return sum(scores) / len(scores)
