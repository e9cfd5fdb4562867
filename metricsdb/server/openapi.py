def description(version: str): return {"openapi": "3.1.0"}
