FROM box
COPY --chown=alice:staff a.txt /owned
COPY --chown=5:6 b.txt /by-number
