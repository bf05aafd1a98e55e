FROM box
RUN echo hi > /hi && chmod 600 /hi
