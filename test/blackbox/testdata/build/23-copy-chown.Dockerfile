FROM box
COPY --chown=app:staff a.txt /owned
COPY --chown=5:6 b.txt /by-number
