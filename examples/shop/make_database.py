"""Write reviews.sqlite: 120 made-up reviews."""

import sqlite3
import sys

OPINIONS = {5: "a great", 4: "a fine", 2: "a weak", 1: "an awful"}
ROWS = [(f"{OPINIONS[stars]} product, order {number}", stars) for number in range(30) for stars in OPINIONS]
connection = sqlite3.connect(sys.argv[1] if len(sys.argv) > 1 else "reviews.sqlite")
with connection:
    connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, body TEXT, stars INTEGER)")
    connection.executemany("INSERT INTO reviews (body, stars) VALUES (?, ?)", ROWS)
connection.close()
