"""A grid's entities as rows of files of columns, which the runs of a session refer to.

The number of a row is its identity. The id of the entity is a column; an entity that changes is a
new row, and the last row of an id is its present state.
"""
