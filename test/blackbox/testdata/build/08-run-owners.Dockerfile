FROM box
RUN touch /f && chown 12:34 /f && mkdir /g && chown app /g
