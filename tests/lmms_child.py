"""Run with the Python of an environment that holds lmms-eval: its own scoring functions on replies, as JSON in and out.
In: {benchmark: [{"task": str, "doc": official row, "reply": str}]}. Out: {benchmark: {"alone": […], "whole": […], "number": float}}, where a mark is [score or null, extracted or null];
"alone" is what the task's function makes of a reply, "whole" what the evaluator does, which takes reasoning tags off before, and "number" what the task's aggregation says of the replies of "whole"."""
import importlib, json, os, sys, tempfile

os.environ.setdefault("HF_HOME", tempfile.mkdtemp())
JUDGED = "judge"

def of(name): return importlib.import_module(f"lmms_eval.tasks.{name}.utils")

def vsi():
    own = of("vsibench")
    def result(task, doc, reply): return own.vsibench_process_results(dict(doc), [reply])["vsibench_overall"]
    def read(found): return found["accuracy"] if "accuracy" in found else found["MRA:.5:.95:.05"], None
    return result, read, own.vsibench_aggregate_overall

def mmmu():
    own = of("videommmu")
    def result(task, doc, reply): return own.videommmu_process_results(doc, [reply])["mmmu_acc"]
    def read(found):
        if found["parsed_pred"] == "API Error": return None, None
        said = found["parsed_pred"] if found["question_type"] == "multiple-choice" else None
        return own.evaluate_videommmu([found])[1]["acc"], None if said == "No Answer Found." else said
    return result, read, own.videommmu_aggregate_results

def mmvu():
    own = of("mmvu")
    asked = []
    def pipeline():
        asked.append(1)
        raise RuntimeError("no judge here")
    own._get_pipeline = pipeline
    def result(task, doc, reply):
        asked.clear()
        return own.mmvu_process_results(doc, [reply])["accuracy"] | dict(asked=bool(asked))
    def read(found): return (None, JUDGED) if found["asked"] else (found["correct"], None)
    return result, read, own.mmvu_aggregate_results_val

def mvbench():
    own = of("mvbench")
    def result(task, doc, reply): return own.mvbench_process_results(doc, [reply])["mvbench_accuracy"]
    def read(found): return (None, None) if found["pred_answer"] == "" else (found["score"], None)
    return result, read, own.mvbench_aggregate_results

def tempcompass():
    own = of("tempcompass")
    own.get_eval_result = lambda prompt, *_, **__: (JUDGED, 0) # what it gives where its model cannot be asked, marked
    def result(task, doc, reply): return getattr(own, f"tempcompass_process_results_{task.replace('-', '_')}")(doc, [reply])["avg_accuracy"]
    def read(found): return found["rating"], JUDGED if "chatgpt_response" in found else None
    return result, read, lambda results: own.tempcompass_aggregate_rating(results, None)

def mme():
    own = of("videomme")
    def result(task, doc, reply): return own.videomme_process_results(doc, [reply])["videomme_perception_score"]
    def read(found): return float(found["pred_answer"] == found["answer"]), found["pred_answer"] or None
    return result, read, own.videomme_aggregate_results

TASKS = {"vsi-bench": vsi, "video-mmmu": mmmu, "mmvu": mmvu, "mvbench": mvbench, "tempcompass": tempcompass, "video-mme": mme}

def tag_pairs():
    "The reasoning tags that its command takes off where nothing is said."
    from lmms_eval.__main__ import parse_eval_args
    from lmms_eval.api.reasoning import parse_reasoning_tags_config
    return parse_reasoning_tags_config(parse_eval_args()[1].reasoning_tags)

def main():
    asked, told = json.load(sys.stdin), sys.stdout
    sys.stdout = sys.stderr # where its log and its aggregations print
    from lmms_eval.api.reasoning import strip_reasoning_tags
    pairs = tag_pairs()
    out = {}
    for benchmark, rows in asked.items():
        result, read, aggregate = TASKS[benchmark]()
        alone = [read(result(row["task"], row["doc"], row["reply"])) for row in rows]
        results = [result(row["task"], row["doc"], strip_reasoning_tags(row["reply"], pairs)) for row in rows]
        out[benchmark] = dict(alone=alone, whole=[read(each) for each in results], number=float(aggregate(results)))
    json.dump(out, told)

if __name__ == "__main__": main()
