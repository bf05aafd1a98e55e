FROM box
COPY --from=box /etc/passwd /passwd.copy
