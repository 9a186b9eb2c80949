"""The lecture-hall app: the threshold explorer as a page. One command: `make app`, or `python -m course_lib.app`.

`prepare` trains (or takes from the store) and scores, `page` is what a visitor sees, `__main__` starts the server.
"""
